"""How many epochs and how much warm-up where nobody says it."""

from __future__ import annotations

from typing import Any

import pytest

from petl.errors import PetlError
from petl.training.fit import fit
from petl.training.length import (
    LEAST_EPOCHS,
    LEAST_UPDATES,
    LEAST_WARMUP,
    MOST_EPOCHS,
    MOST_WARMUP_SHARE,
    default_epochs,
    epochs_within,
    warmup,
)
from petl.training.settings import Settings
from tests.support.data import pairs
from tests.support.training import adapted

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def test_small_sets_have_more_epochs_within_bounds() -> None:
    counts = [default_epochs(updates) for updates in range(1, 2000)]
    assert counts[0] == MOST_EPOCHS and counts[-1] == LEAST_EPOCHS
    assert counts == sorted(counts, reverse=True)
    assert all(n == MOST_EPOCHS or n * updates >= LEAST_UPDATES for updates, n in enumerate(counts, start=1))
    assert [epochs_within(seconds, 2.0) for seconds in (0, 1, 5, 1e6)] == [1, 1, 2, MOST_EPOCHS]


@pytest.mark.parametrize("updates", [1, 7, 300])
def test_the_warm_up_has_enough_updates(updates: int) -> None:
    def epochs_of_warm_up(**options: Any) -> float:
        return warmup(settings(**options).optim, 10, updates)

    assert epochs_of_warm_up(lr=1e-3) == 1.0  # a tenth, with a number for lr
    assert epochs_of_warm_up(lr=None) == max(1.0, min(LEAST_WARMUP / updates, 10 * MOST_WARMUP_SHARE))
    assert epochs_of_warm_up(lr=None, warmup_epochs=0.0) == 0.0


def settings(**options: Any) -> Settings:
    import inspect

    defaults = {p.name: p.default for p in inspect.signature(fit).parameters.values() if p.kind is p.KEYWORD_ONLY}
    return Settings.of({**defaults, **options})


def test_the_gradient_is_clipped_with_default_rates_alone() -> None:
    norms = [settings(**options).optim.largest_norm for options in ({}, {"lr": "x2"}, {"lr": 1e-3}, {"clip": 0.5})]
    assert norms == [1.0, 1.0, None, 0.5]
    assert settings(clip=float("inf")).optim.largest_norm is None


@pytest.mark.deep
def test_the_number_of_epochs_is_chosen_said_and_recorded() -> None:
    model = adapted("norm")
    history = fit(model, pairs(4), batch_size=4, seed=0)
    assert history.epochs == len(history) == MOST_EPOCHS
    assert history.notes == [f"{MOST_EPOCHS} epochs of 1 update, as suits this set"]
    assert history.notes[0] in repr(history) and history.rates.keys() == {"head", "norm"}


BAD: list[Any] = [
    ({"epochs": 2, "minutes": 1.0}, "leave one of them out"),
    ({"minutes": 0}, "minutes=0"),
    ({"minutes": float("inf")}, "minutes=inf"),
    ({"lr": "fast"}, "'x0.5' or 'find'"),
    ({"lr": "x0"}, "lr='x0'"),
    ({"lr": "xnan"}, "lr='xnan'"),
    ({"lr": True}, "lr=True"),
    ({"min_lr": 1.0}, "the highest of the default rates"),
    ({"layer_decay": "gradient"}, "'gradients'"),
    ({"optimizer": "sgd"}, "the default rates are AdamW's"),
    ({"optimizer": "lion", "lr": "x0.1"}, "give a number"),
    ({"warmup_epochs": -1.0}, "0 or more"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[str(options) for options, _ in BAD])
@pytest.mark.sweep(5)
def test_what_cant_be_is_one_clear_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PetlError, match=message):
        fit(adapted("norm"), pairs(8), **options)


@pytest.mark.deep
def test_another_optimizer_trains_where_it_is_measured_or_told() -> None:
    for options in ({"lr": 1e-2}, {"lr": "find"}):
        assert len(fit(adapted("norm"), pairs(8), epochs=1, batch_size=4, optimizer="sgd", **options)) == 1
