"""The best and the last epoch; trainings that are interrupted and resumed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import petl
from petl.errors import StateError
from petl.training.evaluation import evaluate
from petl.training.fit import fit
from tests.support.compare import equal, state
from tests.support.data import pairs
from tests.support.training import LOOKS, Breaking, adapted, without_time

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


# The best epoch


@pytest.mark.deep
def test_the_best_delta_is_the_best_epoch(tmp_path: Path) -> None:
    val, path = pairs(30, seed=1), tmp_path / "best.safetensors"
    model = adapted()
    base = timm.create_model("test_resnet")
    base.load_state_dict(petl.unwrap(copy.deepcopy(model)).state_dict())
    history = fit(model, pairs(48), val, epochs=4, lr=2e-2, batch_size=8, out=path, labels=["a", "b", "c"], keep="best")
    header, again = petl.read(path), petl.load(path, base)
    best = max(history.rows, key=lambda row: row["accuracy"])
    assert history.best == best
    assert header["labels"] == ["a", "b", "c"]
    assert header["results"] == json.loads(json.dumps(best))
    assert evaluate(again, val, batch_size=8).accuracy == best["accuracy"]
    assert equal(state(again), state(model))
    assert petl.record(model).labels == ["a", "b", "c"]


@pytest.mark.deep
def test_keep_last_leaves_the_last_values() -> None:
    """Training on wrong labels gets worse on the right ones, so the best epoch is the first."""
    images, targets = pairs(48).tensors
    states = []
    for keep in ("last", "best"):
        model = adapted()
        wrong, val = TensorDataset(images, (targets + 1) % 3), pairs(30, seed=1)
        history = fit(model, wrong, val, epochs=4, lr=2e-2, batch_size=8, monitor="loss", keep=keep)
        states.append((state(model), evaluate(model, val, batch_size=8).loss, history))
    assert history.best["epoch"] < 4
    assert states[0][1] == pytest.approx(history.rows[-1]["loss"])
    assert states[1][1] == pytest.approx(history.best["loss"])
    assert states[1][1] < states[0][1]


def test_without_validation_the_last_epoch_is_saved(tmp_path: Path) -> None:
    model = adapted()
    history = fit(model, pairs(16), epochs=2, lr=1e-2, batch_size=8, out=tmp_path / "last.safetensors")
    assert history.best["epoch"] == 2
    assert petl.read(tmp_path / "last.safetensors")["results"]["epoch"] == 2


# Interrupted and resumed


def stop_after(epoch: int, error: type[BaseException] = KeyboardInterrupt) -> Callable[[dict[str, Any]], None]:
    def on_epoch(row: dict[str, Any]) -> None:
        if row["epoch"] == epoch:
            raise error

    return on_epoch


RESUMED: list[Any] = [
    ("bn", "test_resnet", {"mixup": 0.2}),
    ("lora", "test_vit", {"ema": 0.9, "keep": "best", "accumulate": 2}),
    ("probe", "test_resnet", {}),
    ("full", "test_efficientnet", {"precision": "bf16", "layer_decay": 0.8}),
]


@pytest.mark.sweep(1)
@pytest.mark.parametrize(("methods", "name", "options"), RESUMED, ids=lambda value: str(value)[:12])
def test_resuming_is_bit_equal(methods: Any, name: str, options: dict[str, Any], tmp_path: Path) -> None:
    given: dict[str, Any] = {"epochs": 4, "lr": 1e-2, "batch_size": 8, **options}

    def run(folder: str, **more: Any) -> tuple[dict[str, Tensor], Any]:
        model = adapted(methods, name)
        history = fit(model, pairs(21), pairs(12, seed=1), checkpoint=tmp_path / folder, **given, **more)
        return state(model), without_time(history)

    with pytest.raises(KeyboardInterrupt):
        run("broken", on_epoch=stop_after(2))
    saved = torch.load(tmp_path / "broken/epoch-0002/custom_checkpoint_0.pkl", weights_only=False)
    torch.rand(7)
    unbroken, resumed = run("whole"), run("broken", resume=True)
    assert len(saved["history"]["rows"]) == 2
    assert equal(resumed[0], unbroken[0])
    assert resumed[1] == unbroken[1]
    assert len(resumed[1]) == 4
    assert [path.name for path in (tmp_path / "broken").iterdir()] == ["epoch-0004"]


def test_a_checkpoint_has_no_backbone(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = adapted("lora")  # its batch norms are held still
    fit(model, pairs(8), epochs=1, lr=1e-2, batch_size=8, checkpoint=tmp_path)
    assert load_file(tmp_path / "epoch-0001/model.safetensors").keys() == petl.trainable(model).keys()
    tuned = adapted("bn")
    fit(tuned, pairs(8), epochs=1, lr=1e-2, batch_size=8, checkpoint=tmp_path / "bn")
    found = load_file(tmp_path / "bn/epoch-0001/model.safetensors")
    statistics = [key for key in tuned.state_dict() if "running" in key or "num_batches" in key]
    assert statistics
    assert found.keys() == {*petl.trainable(tuned), *statistics}
    assert all(torch.equal(found[key], tuned.state_dict()[key]) for key in found)


def test_resume_refuses_what_it_cannot_be(tmp_path: Path) -> None:
    fit(adapted(), pairs(8), epochs=1, lr=1e-2, batch_size=8, checkpoint=tmp_path / "bn")
    model = adapted("lora", rank=2)
    before = state(model)
    with pytest.raises(StateError, match="another model or method"):
        fit(model, pairs(8), epochs=2, lr=1e-2, batch_size=8, resume=tmp_path / "bn")
    assert equal(state(model), before)
    with pytest.raises(StateError, match="no training checkpoint"):
        fit(model, pairs(8), epochs=2, lr=1e-2, resume=tmp_path / "none")
    assert len(fit(model, pairs(8), epochs=1, lr=1e-2, checkpoint=tmp_path / "new", resume=True)) == 1


def test_control_c_leaves_the_best_delta(tmp_path: Path) -> None:
    """In the middle of the third epoch; one image is looked at before the first."""
    model, path = adapted(), tmp_path / "best.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(model, Breaking(LOOKS + 2 * 16 + 9, KeyboardInterrupt), epochs=5, lr=1e-2, batch_size=8, out=path)
    assert petl.read(path)["results"]["epoch"] == 2
    assert not model.training
    assert not [key for key in vars(model) if "accelerate" in key]
