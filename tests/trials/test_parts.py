"""Images to learn from, to choose by, and to tell the result on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch.utils.data import TensorDataset

import petl
from petl.trials.parts import Parts, open_parts
from tests.support.commands import bright_and_dark
from tests.support.data import pairs

MODEL = timm.create_model("test_vit")


def opened(data: Any, **options: Any) -> Parts:
    return open_parts(MODEL, data, **{"objective": None, "images": None, "seed": 0, **options})


def rows(dataset: Any) -> set[bytes]:
    return {dataset[index][0].numpy().tobytes() for index in range(len(dataset))}


def test_what_tells_the_result_chooses_nothing() -> None:
    parts = opened(pairs(45))
    told = rows(parts.told)
    assert len(told) == 9
    assert not parts.own
    assert len(parts.folds) == 3
    for train, val in parts.folds:
        assert not told & rows(train)
        assert not told & rows(val)
        assert not rows(train) & rows(val)
    assert len(set.union(*(rows(val) for _, val in parts.folds))) == 36


def test_validation_images_of_ones_own_tell_the_result() -> None:
    parts = opened((pairs(30), pairs(12, seed=1)))
    assert parts.own
    assert rows(parts.told) == rows(pairs(12, seed=1))
    assert parts.chosen_by == 30


def test_only_files_that_can_be_read_are_counted(tmp_path: Path) -> None:
    bright_and_dark(tmp_path, 6)
    files = sorted((tmp_path / "dark").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:20])
    files[1].write_text("no image")
    parts = opened(tmp_path)
    assert parts.chosen_by + len(parts.told) == 10
    files[2].write_bytes(b"")
    with pytest.raises(
        petl.DataError, match=r"compare needs 4 images of each class or more; too few are of dark \(3\)"
    ):
        opened(tmp_path)


def test_a_folder_has_augmentation_where_it_is_learnt_from_alone(tmp_path: Path) -> None:
    bright_and_dark(tmp_path / "train", 6)
    bright_and_dark(tmp_path / "val", 4, seed=1)
    parts = opened(tmp_path)
    assert parts.own
    assert parts.names == ["bright", "dark"]
    assert all(train.training and not val.training for train, val in parts.folds)
    assert not parts.told.training
    few = opened(tmp_path, images=10)
    assert few.chosen_by == 10
    assert few.folds[0][0].training


def test_each_fold_has_a_hundred_images_or_there_are_three() -> None:
    assert [len(opened((pairs(count, size=8), pairs(6))).folds) for count in (12, 300, 400, 900)] == [3, 3, 4, 5]


def test_numbers_and_several_labels_are_divided_too() -> None:
    images = torch.randn(30, 3, 8, 8)
    numbers = TensorDataset(images, torch.randn(30))
    assert opened(numbers, objective="regression").outputs == 1
    labels = TensorDataset(images, (torch.rand(30, 4) > 0.5).float())
    assert opened(labels, objective="multilabel").outputs == 4


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (TensorDataset(torch.zeros(20, 3, 8, 8), torch.zeros(20, dtype=torch.long)), "two classes"),
        (TensorDataset(torch.zeros(9, 3, 8, 8), torch.arange(9) % 3), "4 images of each class"),
        (TensorDataset(torch.zeros(9, 3, 8, 8)), "pair"),
        (TensorDataset(torch.zeros(9, 3, 8, 8), torch.rand(9)), "objective="),
        ("no/such/folder", "no"),
        (7, "expected"),
    ],
)
def test_data_that_cannot_be_compared_on_is_refused(data: Any, said: str) -> None:
    with pytest.raises(petl.PetlError, match=said):
        opened(data)


def test_other_tasks_are_refused() -> None:
    with pytest.raises(petl.PetlError, match="metric"):
        opened(pairs(30), objective="metric")
