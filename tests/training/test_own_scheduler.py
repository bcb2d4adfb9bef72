"""Schedulers and optimizers of one's own: stepped per update, resumed bit for bit, and those that can't be."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch.optim import lr_scheduler

import petl
from petl.errors import PetlError, StateError
from petl.training.fit import fit
from tests.support.compare import equal, state
from tests.support.data import pairs
from tests.support.training import LOOKS, Breaking, adapted, without_time

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
OPTIONS: dict[str, Any] = {"batch_size": 8, "progress": False}


class Rates(petl.Callback):
    """Notes the learning rate of each update."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_batch_end(self, run: petl.Training, loss: float) -> None:
        self.rates.append(run.lr)


def test_torch_s_schedulers_step_per_update() -> None:
    seen, asked = Rates(), []

    def one_cycle(optimizer: Any, updates: int) -> Any:
        asked.append(updates)
        return lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=updates)

    fit(adapted("probe"), pairs(24), epochs=2, lr=0.6, scheduler=one_cycle, callbacks=seen, accumulate=2, **OPTIONS)
    assert asked == [4] and seen.rates == pytest.approx([0.6, 0.45, 0.3, 0.15])
    halving = functools.partial(lr_scheduler.StepLR, step_size=1, gamma=0.5)
    seen = Rates()
    fit(
        adapted("lora", "test_vit"),
        pairs(16),
        epochs=2,
        lr=0.1,
        layer_decay=0.5,
        scheduler=halving,
        callbacks=seen,
        **OPTIONS,
    )
    assert seen.rates == pytest.approx([0.1, 0.05, 0.025, 0.0125])


@pytest.mark.deep
def test_a_scheduler_that_is_that_of_fit_gives_the_same_training() -> None:
    """timm's cosine by hand; and the rates of early layers stay lower."""
    one, other = adapted("lora", "test_vit"), adapted("lora", "test_vit")
    fit(one, pairs(16), epochs=2, lr=1e-2, warmup_epochs=0, layer_decay=0.5, **OPTIONS)

    def cosine(optimizer: Any, updates: int) -> Any:
        return CosineLRScheduler(optimizer, t_initial=updates, t_in_epochs=False)

    fit(other, pairs(16), epochs=2, lr=1e-2, layer_decay=0.5, scheduler=cosine, **OPTIONS)
    assert all(torch.allclose(value, state(other)[key], atol=1e-7) for key, value in state(one).items())


SCHEDULERS: dict[str, Callable[..., Any]] = {
    "one cycle": lambda optimizer, updates: lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=updates),
    "chained": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.LinearLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.9)], milestones=[3]
    ),
    "timm": lambda optimizer, updates: CosineLRScheduler(optimizer, updates, noise_range_t=0, t_in_epochs=False),
}


@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_is_resumed_bit_for_bit(name: str, tmp_path: Path) -> None:
    def run(folder: str, **more: Any) -> tuple[Any, Any]:
        model = adapted("probe")
        options = {"epochs": 3, "lr": 1e-2, "scheduler": SCHEDULERS[name], "checkpoint": tmp_path / folder, **OPTIONS}
        return state(model), without_time(fit(model, pairs(16), **options, **more)), state(model)  # type: ignore[return-value]

    def interrupt(row: dict[str, Any]) -> None:
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("broken", on_epoch=interrupt)
    resumed, whole = run("broken", resume=True), run("whole")
    assert resumed[1] == whole[1] and equal(resumed[2], whole[2])
    with pytest.raises(StateError, match="of a training with scheduler="):
        fit(adapted("probe"), pairs(16), epochs=4, lr=1e-2, resume=tmp_path / "whole", **OPTIONS)


def test_a_ready_optimizer_and_its_scheduler() -> None:
    model, again = adapted(), adapted()
    optimizer = torch.optim.SGD(petl.trainable(model).values(), lr=0.05, momentum=0.9)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    history = fit(model, pairs(16), epochs=2, optimizer=optimizer, scheduler=scheduler, **OPTIONS)
    assert [row["lr"] for row in history.rows] == pytest.approx([0.025, 0.05 / 8])
    assert optimizer.state and scheduler.last_epoch == 4
    made = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    options = {"weight_decay": 0.0, "scheduler": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.5)}
    fit(again, pairs(16), epochs=2, lr=0.05, optimizer=made, **options, **OPTIONS)
    assert equal(state(model), state(again))
    seen = Rates()
    ready = torch.optim.AdamW(petl.param_groups(model, lr=1e-2), lr=1.0)
    fit(model, pairs(16), epochs=2, optimizer=ready, callbacks=seen, warmup_epochs=1, **OPTIONS)  # a cosine, as ever
    assert seen.rates == pytest.approx([1e-4, 0.00505, 0.005, 0.001464], rel=1e-3)


def test_a_ready_optimizer_has_its_rate_in_an_error_and_its_name_in_the_file(tmp_path: Path) -> None:
    model, out = adapted(), tmp_path / "a.safetensors"
    optimizer = torch.optim.SGD(petl.trainable(model).values(), lr=0.25)
    with pytest.raises(PetlError, match=r"loss is nan in epoch 2, update 3: try a lower lr \(now 0.25\)"):
        fit(model, Breaking(LOOKS + 16, float("nan")), epochs=3, optimizer=optimizer, schedule="none", out=out,
            callbacks=[Rates()], on_epoch=print, **OPTIONS)  # fmt: skip
    settings = json.loads((tmp_path / "a.history.json").read_text())["settings"]
    assert settings["optimizer"] == "SGD" and settings["callbacks"] == ["Rates"] and settings["on_epoch"] == "print"


def bad_optimizer(model: Any) -> list[tuple[dict[str, Any], str]]:
    own, other = list(petl.trainable(model).values()), torch.nn.Linear(2, 2)
    ready, plateau = torch.optim.SGD(own, lr=0.1), lr_scheduler.ReduceLROnPlateau
    makes = lr_scheduler.ConstantLR
    return [
        ({"optimizer": torch.optim.SGD(other.parameters(), lr=0.1)}, "2 of 2 parameters that aren't this model's"),
        ({"optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}, "has parameters that don't train: conv1"),
        ({"optimizer": ready, "lr": 0.1}, "a ready one has its own"),
        ({"optimizer": ready, "layer_decay": 0.5}, "a ready one has its own"),
        ({"optimizer": ready, "weight_decay": 0.1}, "a ready one has its own"),
        ({"lr": "find", "scheduler": makes}, "beside scheduler= pass numbers"),
        ({"layer_decay": "gradients", "scheduler": makes}, "beside scheduler= pass numbers"),
        ({"lr": 0.1, "scheduler": makes(torch.optim.SGD(own, lr=0.1))}, "of another optimizer"),
        ({"lr": 0.1, "scheduler": makes, "schedule": "cosine"}, "leave them out beside scheduler="),
        ({"lr": 0.1, "scheduler": makes, "warmup_epochs": 1}, "leave them out beside scheduler="),
        ({"lr": 0.1, "scheduler": "cosine"}, "scheduler='cosine'; expected a scheduler, or a function"),
        ({"lr": 0.1, "scheduler": lambda optimizer: None}, "returned NoneType"),
        ({"lr": 0.1, "scheduler": plateau}, "ReduceLROnPlateau needs a metric"),
        ({"lr": 0.1, "scheduler": lambda o: CosineLRScheduler(o, 5)}, "make it with t_in_epochs=False"),
        ({"optimizer": ready, "scheduler": CosineLRScheduler(ready, 5)}, "make it with t_in_epochs=False"),
    ]  # fmt: skip


def test_what_cannot_be_is_one_clear_error() -> None:
    model = adapted("lora")
    before = state(model)
    for options, message in bad_optimizer(model):
        with pytest.raises(PetlError, match=message):
            fit(model, pairs(8), epochs=1, **options, **OPTIONS)
    assert equal(state(model), before)


def test_the_advice_for_a_plateau_works() -> None:
    model = adapted("probe")
    optimizer = torch.optim.SGD(petl.trainable(model).values(), lr=0.1)
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)  # nothing is ever better
    history = fit(
        model, pairs(8), pairs(8), epochs=3, optimizer=optimizer, schedule="none",
        on_epoch=lambda row: plateau.step(row["loss"]), **OPTIONS,
    )  # fmt: skip
    assert [row["lr"] for row in history.rows] == pytest.approx([0.1, 0.01, 0.001])
