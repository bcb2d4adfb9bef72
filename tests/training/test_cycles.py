"""``cycles=``: the rates of a schedule in parts, and a training that goes on after a part."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import petl
from petl.training.cycles import CycledSchedule
from petl.training.optimizer_settings import OptimizerSettings
from petl.training.optimizers import create_scheduler
from tests.support.data import pairs


def settings(**options: Any) -> OptimizerSettings:
    defaults: dict[str, Any] = {
        "epochs": None, "minutes": None, "lr": 1e-2, "optimizer": "sgd", "weight_decay": 0.0, "layer_decay": None,
        "unfreeze": None, "schedule": None, "scheduler": None, "cycles": None, "warmup_epochs": None, "min_lr": 0.0,
        "accumulate": 1, "clip": None, "ema": None, "start": None,
    }  # fmt: skip
    return OptimizerSettings(**{**defaults, **options})


def rates(chosen: OptimizerSettings, updates: int, epochs: int, count: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    schedule, found = create_scheduler(optimizer, chosen, updates, epochs), []
    for number in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        schedule.step_update(number + 1)
    return found


@pytest.mark.parametrize("schedule", ["cosine", "poly"])
def test_each_part_has_the_rates_of_a_training_of_its_length(schedule: str) -> None:
    parts = rates(settings(cycles=(2, 6), schedule=schedule), 5, 6, 30)
    first, second = (rates(settings(epochs=n, schedule=schedule), 5, n, 5 * n) for n in (2, 4))
    assert parts == [*first, *second]


def test_the_rates_do_not_depend_on_how_long_the_training_is() -> None:
    assert rates(settings(cycles=(1, 3), epochs=1), 4, 1, 5) == rates(settings(cycles=(1, 3)), 4, 3, 5)
    assert settings(cycles=(1, 3)).epochs == 3


@pytest.mark.parametrize(
    "options",
    [
        {"cycles": ()}, {"cycles": (3, 2)}, {"cycles": (0, 2)}, {"cycles": "3"}, {"cycles": 3}, {"cycles": (1.5,)},
        {"cycles": (True, 2)}, {"cycles": (1, 3), "epochs": 4}, {"cycles": (1, 3), "minutes": 1},
        {"cycles": (1, 3), "unfreeze": 1}, {"cycles": (1, 3), "schedule": "none"},
        {"cycles": (1, 3), "scheduler": lambda optimizer: None},
    ],
)  # fmt: skip
def test_cycles_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(petl.PetlError, match="cycles"):
        settings(**options)


@pytest.mark.parametrize("lr", ["x3", *(pytest.param(lr, marks=pytest.mark.deep) for lr in ("x0.333", 1e-3))])
def test_a_training_that_goes_on_after_a_part_equals_an_unbroken_one(tmp_path: Path, lr: Any) -> None:
    base, data = timm.create_model("test_vit"), pairs(24)

    def trained(folder: str, *lengths: int) -> tuple[dict[str, Any], petl.History]:
        for epochs in lengths:
            torch.manual_seed(0)
            model = petl.wrap(copy.deepcopy(base), "lora", num_classes=3)
            where = {"checkpoint": tmp_path / folder, "resume": True}
            history = petl.fit(model, data, lr=lr, epochs=epochs, cycles=(1, 3), batch_size=8, **where)  # type: ignore[arg-type]
        return model.state_dict(), history

    (broken, one), (whole, other) = trained("a", 1, 3), trained("b", 3)
    assert all(torch.equal(broken[key], whole[key]) for key in whole)
    assert [row["train_loss"] for row in one.rows] == [row["train_loss"] for row in other.rows]


def test_parts_are_made_so_that_the_first_rate_is_left() -> None:
    made: list[int] = []
    CycledSchedule(made.append, (1, 4), 2)
    assert made == [3, 1]
