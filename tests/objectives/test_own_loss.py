"""Losses of one's own: functions of two or three arguments, and what they are measured by."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import petl
from petl.objectives.own_loss import argument_count, selected
from tests.support.data import pairs
from tests.support.training import adapted, without_time

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
OPTIONS: dict[str, Any] = {"epochs": 2, "lr": 1e-2, "batch_size": 8}


def focal(outputs: Tensor, targets: Tensor) -> Tensor:
    losses = F.cross_entropy(outputs, targets, reduction="none")
    return ((1 - (-losses).exp()) ** 2 * losses).mean()


@pytest.mark.deep
def test_cross_entropy_of_ones_own_trains_as_petls() -> None:
    train, val = pairs(16), pairs(8, seed=1)
    own, theirs, measured = adapted(), adapted(), adapted()
    rows = petl.fit(theirs, train, val, **OPTIONS).rows
    history = petl.fit(own, train, val, objective=nn.CrossEntropyLoss(), **OPTIONS)
    assert [row["loss"] for row in history.rows] == pytest.approx([row["loss"] for row in rows], rel=1e-5)
    assert history.best["loss_standard_error"] == pytest.approx(
        next(row for row in rows if row["epoch"] == history.best["epoch"])["loss_standard_error"], rel=1e-4
    )
    same = petl.fit(
        measured, train, val, objective=petl.OwnLoss(nn.CrossEntropyLoss(), measure="classification"), **OPTIONS
    )
    assert without_time(same) == without_time(petl.fit(adapted(), train, val, **OPTIONS))
    assert petl.record(own).task == "" and petl.record(measured).task == "classification"  # type: ignore[union-attr]


def test_a_delta_of_an_unknown_task_says_none(tmp_path: Any) -> None:
    petl.fit(adapted(), pairs(8), objective=focal, out=tmp_path / "a.safetensors", epochs=1, lr=1e-3)
    assert petl.read(tmp_path / "a.safetensors")["task"] is None


def test_a_loss_may_see_the_batch() -> None:
    """Also those of its parts that are neither images nor labels."""
    seen: list[Tensor] = []

    def weighted(outputs: Tensor, targets: Tensor, batch: Any) -> Tensor:
        seen.append(batch["weight"])
        return (F.cross_entropy(outputs, targets, reduction="none") * batch["weight"]).sum() / len(targets)

    weights = torch.arange(8.0)
    items: Any = [{"image": image, "label": label, "weight": weights[i]} for i, (image, label) in enumerate(pairs(8))]
    history = petl.fit(
        adapted(),
        DataLoader(items, 4),
        DataLoader(items, 3),
        objective=weighted,
        keys=("image", "label"),
        epochs=1,
        lr=1e-3,
    )
    assert [part.tolist() for part in seen[:2]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert history.rows[0]["loss_standard_error"] > 0


def test_only_losses_without_the_batch_train_on_features() -> None:
    data = pairs(8)
    cached = petl.fit(adapted("probe"), data, objective=focal, **OPTIONS)
    whole = petl.fit(
        adapted("probe"), data, objective=lambda outputs, targets, batch: focal(outputs, targets), **OPTIONS
    )
    assert "computed once" in cached.features and "takes the batch" in whole.features
    assert cached.rows[-1]["train_loss"] == pytest.approx(whole.rows[-1]["train_loss"], rel=1e-4)
    with pytest.raises(petl.PetlError, match="takes the batch"):
        petl.fit(adapted("probe"), data, objective=lambda outputs, targets, batch: outputs.mean(), views=2, **OPTIONS)


def test_a_loss_of_pairs_has_no_standard_error() -> None:
    def spread(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.var(0).sum() + (outputs.mean() - targets.float().mean()) ** 2

    history = petl.fit(adapted(), pairs(8), pairs(8), objective=spread, epochs=1, lr=1e-4)
    assert "loss" in history.rows[0] and "loss_standard_error" not in history.rows[0]


def test_arguments_are_counted() -> None:
    assert argument_count(nn.MSELoss()) == argument_count(F.mse_loss) == argument_count(lambda *both: both[0]) == 2
    assert argument_count(lambda o, t, b: o) == argument_count(lambda o, t, batch=None: o) == 3
    for wrong in (lambda: 0, lambda o: o, lambda o, t, b, more: o):
        with pytest.raises(petl.PetlError, match="loss takes"):
            petl.OwnLoss(wrong)


@pytest.mark.parametrize("loss", [lambda o, t: 1.0, lambda o, t: o])
def test_a_loss_is_one_number(loss: Any) -> None:
    with pytest.raises(petl.DataError, match="tensor of one number"):
        petl.fit(adapted(), pairs(8), objective=loss, epochs=1, lr=1e-4)


def test_parts_of_a_batch() -> None:
    batch = {"a": torch.arange(4), "b": [torch.arange(4) * 2, "name"]}
    assert selected(batch, torch.tensor([True, False, True, False]))["b"][0].tolist() == [0, 4]
