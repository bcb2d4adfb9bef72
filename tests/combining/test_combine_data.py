"""`petl.combine` with images: classifiers computed anew, and weights that are chosen on images held out."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import petl
from petl.combining.choice import choose_weights
from petl.combining.task_data import Renumbered, task_data
from tests.combining.test_combine import base_of, same, trained
from tests.combining.test_extend import images_of


@pytest.fixture(scope="module")
def base() -> nn.Module:
    return base_of()


def test_the_best_weights_are_chosen_and_ties_go_to_the_even_ones() -> None:
    def measure(weights: Sequence[float]) -> list[torch.Tensor]:
        right = 60 + 30 * (weights[-1] >= 0.8)
        return [(torch.arange(100) < right).double()]

    chosen = choose_weights(2, [0.5, 0.5], measure, one_task=True)
    assert [round(w, 3) for w in chosen.weights] == [0.2, 0.8] and chosen.images == 100 and len(chosen.curve) == 11
    best = next(one for one in chosen.curve if one.weights == chosen.weights)
    assert round(best.against_even, 3) == 0.3 and 0.04 < best.against_even_error < 0.05
    flat = choose_weights(1, [1.0], lambda weights: [torch.ones(10, dtype=torch.float64)], one_task=True)
    assert flat.weights == [1.0]
    many = choose_weights(3, [0.1] * 3, measure, one_task=False)
    assert {round(sum(one.weights), 3) for one in many.curve} == {0.075, 0.15, 0.225, 0.3, 0.45, 0.6, 0.9}
    soup = choose_weights(3, [1 / 3] * 3, measure, one_task=True)
    assert soup.weights == [0.0, 0.0, 1.0]


def test_a_test_part_is_never_held_out_and_classes_keep_the_deltas_numbers(base: nn.Module) -> None:
    y = torch.arange(40) % 2
    train, val = images_of(y), images_of(y, 1)
    (task,) = task_data((train, val), base, {"a": ["x", "y"]}, choosing=True, seed=0)
    assert task.own and task.held is val and task.labels == ["x", "y"]
    (task,) = task_data(train, base, {"a": None}, choosing=True, seed=0)
    assert not task.own and len(task.train) == 32 and len(task.held) == 8  # type: ignore[arg-type]  # both have a length
    turned = Renumbered(train, [1, 0], ["y", "x"])
    assert turned[0][1] == 1 and turned.targets.tolist()[:2] == [1, 0]
    with pytest.raises(petl.DataError, match="four|4 images"):
        task_data(TensorDataset(train.tensors[0][:4], y[:4]), base, {"a": None}, choosing=False, seed=0)
    with pytest.raises(petl.StateError, match="fish"):
        task_data({"fish": train}, base, {"a": None}, choosing=False, seed=0)


@pytest.mark.deep
def test_classifiers_are_computed_from_images(base: nn.Module) -> None:
    one, two = trained(base, "lora", 1, num_classes=4), trained(base, "lora", 2, num_classes=2)
    y = torch.arange(48) % 4
    data = {"one": images_of(y), "two": images_of(y % 2, 1)}
    combined = petl.combine({"one": one, "two": two}, data=data, progress=False)
    assert combined.slices == {"one": (0, 4), "two": (4, 6)} and len(combined.labels or ()) == 6
    assert combined.refitted["one"].accuracy > 0.4 and "leave-one-out" in str(combined)
    alone = combined.only("two")
    assert petl.evaluate(alone, data["two"], progress=False).accuracy > 0.7
    single = petl.combine([one, "base"], data=data["one"], weights=[0.5, 0.5], progress=False)
    assert single.refitted[""].images == 48 and petl.evaluate(single.model, data["one"], progress=False).accuracy > 0.5


@pytest.mark.deep
@pytest.mark.parametrize("heads", [None, "mean"])
def test_weights_are_chosen_on_images_held_out(base: nn.Module, heads: str | None) -> None:
    y = torch.arange(48) % 4
    data = images_of(y)
    models = [trained(base, "lora", seed, num_classes=4, size=0.2) for seed in (1, 2)]
    found = petl.combine(models, weights="auto", heads=heads, data=data, progress=False)
    assert len(found.curve) == 11 and found.held_out == 8 and "chosen among 11" in str(found)
    best = max(one.accuracy for one in found.curve)
    assert next(one for one in found.curve if one.weights == found.weights).accuracy == best
    again = petl.combine(models, weights="auto", heads=heads, data=data, progress=False)
    assert again.to_json() == found.to_json() and same(again.model, found.model)
    line = petl.combine([models[0]], weights="auto", heads=heads, data=data, progress=False)
    assert [one.weights[0] for one in line.curve] == [n / 10 for n in range(11)]
    assert petl.record(copy.deepcopy(line.model)).results["combined"]["curve"]  # type: ignore[union-attr, index]
