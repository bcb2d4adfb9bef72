"""Which images a dataset gives: files that changed, wrappers, other kinds of datasets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

import petl
from petl.extraction.dataset_fingerprint import dataset_fingerprint
from petl.extraction.randomness import may_change
from tests.support.cut_models import built, entries, partial, picture_folder, train
from tests.support.data import SIZE, noise_pairs

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


class Brighter(Subset):
    """A subset that does more than a Subset does."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, target = super().__getitem__(index)
        return image + torch.randn(1), target

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


def test_what_is_known_of_a_class_is_not_of_its_children() -> None:
    data = noise_pairs()
    assert str(may_change(Brighter(data, range(9)))).startswith("petl can't see whether Brighter")
    assert not may_change(ConcatDataset([Subset(data, range(9)), data]))
    assert dataset_fingerprint(ConcatDataset([data, data])) != dataset_fingerprint(ConcatDataset([data]))
    assert "can't see whether Brighter" in train(partial(built()), Brighter(data, range(9)), epochs=1).features


def test_features_of_other_images_than_asked_for_are_not_kept(tmp_path: Path) -> None:
    """A file whose middle is damaged: the next image takes its place, and the file may be whole again next time."""
    folder, kept = picture_folder(tmp_path / "images"), tmp_path / "kept"
    place = folder / "a" / "2.png"
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 0xFF
    place.write_bytes(data)
    model = petl.wrap(timm.create_model("test_vit", img_size=SIZE), "partial", last=1, num_classes=2)
    images = petl.data.dataset(folder, petl.data.pipeline(model), split=None)
    assert "from blocks.5 on" in train(model, images, epochs=1, cache=kept).features
    assert images.unreadable == [str(place)]
    assert not entries(kept)


def test_a_changed_file_is_another_data_set(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "images")
    model = built()
    data = petl.data.dataset(folder, petl.data.pipeline(model), split=None)
    before = dataset_fingerprint(data)
    assert dataset_fingerprint(petl.data.dataset(folder, petl.data.pipeline(model), split=None)) == before
    place = folder / "a" / "0.png"
    times = place.stat()
    os.utime(place, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert dataset_fingerprint(data) != before
    smaller = petl.data.pipeline(model, size=32)
    assert dataset_fingerprint(petl.data.dataset(folder, smaller, split=None)) not in (
        before,
        dataset_fingerprint(data),
    )
    assert not may_change(data)
    assert may_change(petl.data.dataset(folder, smaller, split=None, training=True))


def test_other_datasets_are_read_through() -> None:
    class Read(Dataset):
        def __init__(self, shift: float):
            self.data, self.shift = noise_pairs(), shift

        def __len__(self) -> int:
            return len(self.data)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return self.data[index][0] + self.shift * (index == 17), int(self.data[index][1])

    assert dataset_fingerprint(Read(0.0)) == dataset_fingerprint(Read(0.0))
    assert dataset_fingerprint(Read(0.0)) != dataset_fingerprint(Read(1e-3))
