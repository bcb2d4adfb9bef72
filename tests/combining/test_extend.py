"""No forgetting: a classifier extended class by class is the one of all images at once, and old sums keep their bits."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import petl
from petl.combining.ridge_statistics import RidgeStatistics, statistics_beside
from petl.evidence.leave_one_out import ridge


def clusters(count: int = 120, classes: int = 5, width: int = 12) -> tuple[Tensor, Tensor]:
    """Features of classes that overlap, far from zero."""
    drawn = torch.Generator().manual_seed(0)
    y = torch.arange(count) % classes
    centres = torch.randn(classes, width, generator=drawn)
    return 10 + centres[y] + torch.randn(count, width, generator=drawn), y


def grown(x: Tensor, y: Tensor, order: Any, names: list[str]) -> RidgeStatistics:
    found = RidgeStatistics.empty(x.shape[1], "trunk")
    for rows in order:
        found = found.plus(x[rows], y[rows], names)
    return found


def test_the_statistics_give_the_classifier_of_all_images_at_once_in_any_order() -> None:
    x, y = clusters()
    names = list("abcde")
    whole = grown(x, y, [slice(None)], names).head()
    plain = ridge(x, y, 5, penalties=[whole.penalty])
    torch.testing.assert_close(whole.weight * whole.error, plain.weight, atol=1e-9, rtol=1e-8)
    torch.testing.assert_close(whole.bias * whole.error, plain.bias, atol=1e-8, rtol=1e-8)
    for order in ([y == c for c in range(5)], [y == c for c in (3, 0, 4, 2, 1)], [y > 2, y < 1, y == 2, y == 1]):
        found = grown(x, y, order, names)
        rows = [found.classes.index(name) for name in names]
        head = found.head()
        assert head.penalty == whole.penalty
        assert float((head.weight[rows] - whole.weight).abs().max() / whole.weight.abs().max()) < 1e-6
        assert float((head.bias[rows] - whole.bias).abs().max() / whole.bias.abs().max()) < 1e-6


def test_old_classes_keep_their_bits_and_images_count_once(tmp_path: Path) -> None:
    x, y = clusters()
    before = grown(x, y, [y < 3], ["a", "b", "c"])
    kept = before.sums.clone(), before.counts.clone(), before.gram.clone()
    after = before.plus(x[y == 3], torch.zeros(int((y == 3).sum()), dtype=torch.int64), ["d"])
    assert after.classes == ["a", "b", "c", "d"]
    assert torch.equal(after.sums[:3], kept[0]) and torch.equal(after.counts[:3], kept[1])
    assert torch.equal(before.sums, kept[0]) and torch.equal(before.gram, kept[2])
    mixed = torch.flip(x[y == 3], [0])
    with pytest.raises(petl.DataError, match="added before"):
        after.plus(mixed, torch.zeros(len(mixed), dtype=torch.int64), ["d"])
    assert after.plus(mixed, torch.zeros(len(mixed), dtype=torch.int64), ["d"], again=True).images == after.images + 24
    again = RidgeStatistics.load(after.save(tmp_path / "s.safetensors"))
    assert torch.equal(again.gram, after.gram) and torch.equal(again.sums, after.sums) and again.added == after.added
    assert (tmp_path / "s.safetensors").stat().st_size < 8 * (12 * 13 // 2 + 4 * 13) + 2000


def test_penalty_and_scale_without_the_images_are_about_those_by_leaving_out() -> None:
    x, y = clusters(400)
    head, plain = grown(x, y, [slice(None)], list("abcde")).head(), ridge(x, y, 5)
    assert 0.3 < head.penalty / plain.penalty < 4
    squared = float((plain.left_out - torch.nn.functional.one_hot(y, 5)).square().mean())
    assert abs(head.error / squared - 1) < 0.05


def images_of(y: Tensor, seed: int = 0) -> TensorDataset:
    drawn = torch.Generator().manual_seed(seed)
    levels = torch.tensor([-1.0, 1.0, 0.0, 2.0])[y].view(-1, 1, 1, 1)
    return TensorDataset(levels + 0.5 * torch.randn(len(y), 3, 32, 32, generator=drawn), y)


def part(data: TensorDataset, rows: Tensor) -> TensorDataset:
    return TensorDataset(*(tensor[rows] for tensor in data.tensors))


@pytest.fixture(scope="module")
def base() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_efficientnet").eval()


def test_a_model_is_extended_by_files_and_in_memory(base: nn.Module, tmp_path: Path) -> None:
    y = torch.arange(32) % 4
    data = images_of(y)
    model = petl.wrap(copy.deepcopy(base), "probe", num_classes=2).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first = petl.extend(model, part(data, y < 2), progress=False)
    second = petl.extend(first.model, part(data, y == 2), progress=False)
    path = second.save(tmp_path / "d.safetensors")
    assert statistics_beside(path).is_file()
    third = petl.extend(path, part(data, y == 3), base=base, progress=False)
    assert petl.record(base) is None  # it stays without a delta
    assert third.classes == ["0", "1", "2", "3"] == petl.record(third.model).labels  # type: ignore[union-attr]
    assert third.new == ["3"] and third.added == {"3": 8} and third.images["0"] == 8 and not third.notes
    joint = petl.extend(model, data, progress=False)
    with torch.no_grad():
        one, two = third.model(data.tensors[0]), joint.model(data.tensors[0])
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(petl.DataError, match="added before"):
        petl.extend(third.model, part(data, y == 3), progress=False)


@pytest.mark.deep
def test_what_would_be_forgotten_is_refused(base: nn.Module, tmp_path: Path) -> None:
    y = torch.arange(32) % 4
    data = images_of(y)
    model = petl.wrap(copy.deepcopy(base), "lora", num_classes=2)
    first = petl.extend(model, part(data, y < 2), progress=False)
    alone = petl.save(first.model, tmp_path / "alone.safetensors")
    twice = petl.save(first.model, tmp_path / "twice.safetensors", labels=["a", "a"])
    with pytest.raises(petl.StateError, match="have the name 'a'"):
        petl.extend(twice, data, base=base, progress=False)
    with pytest.raises(petl.StateError, match="would be forgotten"):
        petl.extend(alone, part(data, y == 2), base=copy.deepcopy(base), progress=False)
    anew = petl.extend(alone, part(data, y < 3), base=copy.deepcopy(base), progress=False)
    assert anew.classes == ["0", "1", "2"]
    given = petl.extend(
        alone, part(data, y == 2), base=copy.deepcopy(base), statistics=first.statistics, progress=False
    )
    torch.testing.assert_close(given.model.classifier.weight, anew.model.classifier.weight, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        petl.trainable(first.model)["conv_stem.lora.up"].add_(0.1)
    with pytest.raises(petl.StateError, match="another backbone, delta or input pipeline"):
        petl.extend(first.model, part(data, y == 2), progress=False)
    with torch.no_grad():
        anew.model.classifier.weight.add_(1)  # type: ignore[operator, union-attr]  # a layer
    assert "is replaced" in str(petl.extend(anew.model, part(data, y == 3), progress=False))
    with pytest.raises(petl.StateError, match="statistics"):
        petl.extend(alone, data, base=copy.deepcopy(base), statistics=alone, progress=False)
    with pytest.raises(petl.DataError, match="class"):
        petl.extend(model, TensorDataset(data.tensors[0], torch.rand(32)), progress=False)
    with pytest.raises(petl.DataError, match="two classes or more"):
        petl.extend(model, part(data, y == 0), progress=False)
    with pytest.raises(petl.StateError, match="not wrapped"):
        petl.extend(copy.deepcopy(base), data, progress=False)
    blocks = petl.wrap(copy.deepcopy(base), petl.Probe(layers="all"), num_classes=2)
    with pytest.raises(petl.StateError, match="layers='all'"):
        petl.extend(blocks, data, progress=False)
