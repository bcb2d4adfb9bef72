"""`fit(compile=)`: the compiled model trains and is measured as the plain one, and nothing of it is left."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import petl
from petl.errors import PetlError
from petl.training.evaluation import evaluate
from petl.training.fit import fit
from tests.support.compare import gap, state
from tests.support.data import pairs
from tests.support.training import adapted

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
OPTIONS: dict[str, Any] = {"epochs": 2, "lr": 1e-2, "batch_size": 8, "progress": False}
CASES: list[Any] = [
    ("bn", "test_resnet", "aot_eager", {"ema": 0.9}),
    ("lora", "test_vit", "eager", {"precision": "bf16"}),
    ("probe", "test_resnet", "eager", {}),
    ("partial", "test_vit", "eager", {}),
]


@pytest.mark.sweep(1)
@pytest.mark.deep
@pytest.mark.parametrize(("methods", "name", "backend", "options"), CASES)
def test_it_is_the_same_training(
    methods: Any, name: str, backend: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    model, path = adapted(methods, name), tmp_path / "delta.safetensors"
    plain, calls = copy.deepcopy(model), []
    compiled = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda net, **how: [calls.append(how), compiled(net, **how)][1])
    keys = list(model.state_dict())
    history = fit(model, pairs(20), pairs(6), compile=backend, out=path, keep="best", **options, **OPTIONS)
    wanted = fit(plain, pairs(20), pairs(6), keep="best", **options, **OPTIONS)
    assert calls == [{"backend": backend}] and history.features == wanted.features
    tolerance = 3e-2 if options.get("precision") else 1e-5
    assert gap(state(model), state(plain)) < tolerance and list(model.state_dict()) == keys
    assert history.rows[-1]["loss"] == pytest.approx(wanted.rows[-1]["loss"], abs=tolerance)
    assert model._compiled_call_impl is None and evaluate(model, pairs(6), progress=False).loss > 0
    assert gap(state(petl.load(path, petl.unwrap(copy.deepcopy(model)))), state(model)) == 0


class Small(nn.Module):
    """A classifier that compiles soon."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(images.mean((2, 3)))


def test_what_the_user_has_compiled_stays_so() -> None:
    model = Small()
    model.compile(backend="eager")
    own = model._compiled_call_impl
    fit(model, pairs(8), compile="eager", cache=False, **{**OPTIONS, "epochs": 1})
    assert model._compiled_call_impl is own


def test_what_cannot_be_compiled_is_one_clear_error() -> None:
    for wish in ("agot_eager", "max-autotne", 1, None):
        with pytest.raises(PetlError, match=f"compile={wish!r}; expected True, False, a mode"):
            fit(adapted("probe"), pairs(8), compile=wish, **OPTIONS)
    with pytest.raises(PetlError, match="near names: aot_eager"):
        fit(adapted("probe"), pairs(8), compile="agot_eager", **OPTIONS)

    def no_compiler(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    torch._dynamo.reset()
    torch._dynamo.register_backend(no_compiler, name="petl_no_compiler")
    model = Small()
    with pytest.raises(PetlError, match=r"compile='petl_no_compiler': torch can't compile .*no C\+\+ compiler"):
        fit(model, pairs(8), compile="petl_no_compiler", cache=False, **OPTIONS)
    assert model._compiled_call_impl is None
