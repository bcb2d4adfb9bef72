"""The arguments of `fit`, checked before anything runs."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from petl.errors import PetlError
from petl.training.fit import fit
from petl.training.settings import WITHOUT_GRADIENT
from tests.support.compare import equal, state
from tests.support.data import pairs
from tests.support.training import adapted

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


BAD_SETTINGS: list[Any] = [
    ({"epochs": 0}, "epochs=0"),
    ({"lr": 0.0}, "lr=0.0"),
    ({"lr": float("nan")}, "lr=nan"),
    ({"batch_size": 0}, "batch_size=0"),
    ({"accumulate": 0}, "accumulate=0"),
    ({"monitor": "acuracy"}, "near names: accuracy"),
    ({"patience": 3}, "need validation data"),
    ({"keep": "best"}, "need validation data"),
    ({"keep": "first"}, "keep='first'"),
    ({"resume": True}, "needs checkpoint="),
    ({"warmup_epochs": 2}, "warmup_epochs=2"),
    ({"optimizer": "adamv"}, "optimizer='adamv'"),
    ({"schedule": "cosin"}, "schedule='cosin'"),
    ({"schedule": "plateau"}, "schedule='plateau'"),
    ({"precision": "fp8"}, "precision='fp8'"),
    ({"class_weights": [1.0, 2.0]}, "expected 3 numbers"),
    ({"class_weights": "even"}, "expected 'balanced'"),
    ({"labels": ["a", "b"]}, "2 labels .* 3 classes"),
    ({"views": 2}, "views=2, but the head"),
    ({"views": 2, "mixup": 0.2}, "only images can be mixed"),
    ({"out": "no/such/folder/x.safetensors"}, "is not a folder"),
]


@pytest.mark.parametrize(("options", "message"), BAD_SETTINGS, ids=[str(options) for options, _ in BAD_SETTINGS])
@pytest.mark.sweep(9)
def test_bad_settings_are_one_clear_error(options: dict[str, Any], message: str) -> None:
    model = adapted()
    before = state(model)
    with pytest.raises(PetlError, match=message):
        fit(model, pairs(8), **{"epochs": 1, "lr": 1e-3, **options})
    assert equal(state(model), before)


def test_settings_of_a_gradient_count_as_not_given_at_their_defaults() -> None:
    defaults = inspect.signature(fit).parameters
    assert {name: defaults[name].default for name in WITHOUT_GRADIENT} == WITHOUT_GRADIENT


def test_half_precision_needs_a_gpu() -> None:
    with pytest.raises(PetlError, match="needs a GPU"):
        fit(adapted(), pairs(8), epochs=1, lr=1e-3, precision="fp16")
