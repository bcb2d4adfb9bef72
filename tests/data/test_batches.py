"""Order and augmentation of batches follow seed and epoch."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import petl.data as data
from petl.errors import DataError
from tests.support.data import plain
from tests.support.image_files import picture


def epoch_of(loader, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    data.set_epoch(loader, epoch)
    images, targets = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(targets)


def test_order_and_augmentation_follow_seed_and_epoch(folder: Callable[..., Path]) -> None:
    train = data.dataset(folder(cat=5, dog=6), plain(3), training=True)
    loaders = [
        data.loader(train, batch_size=4, training=True, seed=seed, workers=w) for seed, w in ((1, 0), (1, 2), (2, 0))
    ]
    random.seed(0)
    ours = [epoch_of(loaders[0], e) for e in (0, 1, 2)]
    random.seed(99), torch.manual_seed(99)
    # another state of the global generators, worker processes, and straight to the last epoch
    for batch, again in zip(ours[2], epoch_of(loaders[1], 2), strict=True):
        assert torch.equal(batch, again)
    assert not torch.equal(ours[0][0], ours[1][0])
    assert not torch.equal(ours[0][0], epoch_of(loaders[2], 0)[0])
    assert sorted(ours[0][1].tolist()) == [0] * 5 + [1] * 6


def test_each_picture_has_its_own_augmentation(tmp_path: Path) -> None:
    for i in range(8):
        (tmp_path / "cat").mkdir(exist_ok=True)
        picture(7, size=16).save(tmp_path / "cat" / f"{i}.png")
    train = data.dataset(tmp_path, plain(3), training=True)
    images, _ = epoch_of(data.loader(train, batch_size=8, training=True), 0)
    assert len({i.numpy().tobytes() for i in images}) == 8


def test_loading_leaves_the_global_generators_alone(folder: Callable[..., Path]) -> None:
    train = data.dataset(folder(cat=4), plain(3), training=True, augment={"auto_augment": "rand-m9"})
    loader = data.loader(train, batch_size=2, training=True)
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    samples = [loader.dataset[(i, 3)] for i in range(4)]  # the loader itself draws its workers' seed from torch
    assert len(samples) == 4
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def test_resume_in_the_middle_under_accelerate(folder: Callable[..., Path]) -> None:
    accelerate = pytest.importorskip("accelerate")
    train = data.dataset(folder(cat=5, dog=5), plain(3), training=True)
    unbroken = data.loader(train, batch_size=3, training=True, seed=4)
    data.set_epoch(unbroken, 3)
    expected = list(unbroken)
    prepared = accelerate.Accelerator(cpu=True).prepare(data.loader(train, batch_size=3, training=True, seed=4))
    data.set_epoch(prepared, 3)
    rest = list(accelerate.skip_first_batches(prepared, 2))
    assert len(rest) == len(expected) - 2
    for (a, b), (c, d) in zip(rest, expected[2:], strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


@pytest.mark.parametrize(("count", "sizes"), [(9, [4, 4]), (10, [4, 4, 2]), (1, [1])])
def test_only_a_lonely_last_image_is_left_out_of_training(folder, count: int, sizes: list[int]) -> None:
    found = data.dataset(folder(cat=count), plain(3))
    assert [len(t) for _, t in data.loader(found, batch_size=4, training=True)] == sizes
    assert sum(len(t) for _, t in data.loader(found, batch_size=4)) == count


def test_loader_takes_any_dataset_and_keeps_its_classes(folder: Callable[..., Path]) -> None:
    pairs = torch.utils.data.TensorDataset(torch.arange(8.0), torch.arange(8))
    loader = data.loader(pairs, batch_size=8, training=True)
    orders = [epoch_of(loader, e)[1].tolist() for e in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    images = data.loader(data.dataset(folder(cat=2), plain(3)), batch_size=1, training=True)
    assert images.dataset.classes == ["cat"]  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="batch_size=0"):
        data.loader(pairs, batch_size=0)
