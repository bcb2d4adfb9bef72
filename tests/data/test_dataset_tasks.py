"""What the targets of a dataset are, and their names, inside of any wrapper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from petl import data
from petl.data.dataset_tasks import dataset_target_names, dataset_task, refuse_other_order
from petl.errors import DataError
from tests.support.tables_of_targets import ages, part

KINDS: list[tuple[dict[str, Any], str, list[str]]] = [
    ({"label": "grade"}, "classification", ["0", "1", "2"]),
    ({"labels": "tags"}, "multilabel", ["bright", "red"]),
    ({"labels": ["red", "bright"]}, "multilabel", ["red", "bright"]),
    ({"targets": ["age"]}, "regression", ["age"]),
    ({"targets": ["weight_kg", "age"]}, "regression", ["weight_kg", "age"]),
]


@pytest.mark.parametrize(("options", "task", "names"), KINDS)
def test_wrappers_know_what_is_in_them(options: dict[str, Any], task: str, names: list[str], tmp_path: Path) -> None:
    whole = part(ages(tmp_path), "train", **options)
    train, val = data.holdout(whole)
    both = ConcatDataset([Subset(whole, [0, 1]), Subset(whole, [2])])
    loader = data.loader(whole, batch_size=2)
    for dataset in (whole, train, val, both, Subset(both, [0]), data.sift(whole)[0], loader.dataset):
        assert (dataset_task(dataset), dataset_target_names(dataset)) == (task, names)
    assert dataset_task(DataLoader(both).dataset) == task


def test_what_somebody_else_made_says_nothing(tmp_path: Path) -> None:
    foreign = TensorDataset(torch.zeros(2, 3, 32, 32), torch.zeros(2))
    whole = part(ages(tmp_path), "train", targets=["age"])
    assert dataset_task(foreign) is dataset_task(ConcatDataset([whole, foreign])) is None
    with pytest.raises(DataError, match="regression in one part and of a classification in another"):
        dataset_task(ConcatDataset([whole, part(tmp_path / "ages.csv", "val", label="grade")]))
    with pytest.raises(DataError, match=r"\(age\) in one part and \(weight_kg\)"):
        dataset_target_names(ConcatDataset([whole, part(tmp_path / "ages.csv", "val", targets=["weight_kg"])]))


def test_columns_in_another_order_would_be_misread(tmp_path: Path) -> None:
    whole = part(ages(tmp_path), "train", targets=["weight_kg", "age"])
    for fine in (["weight_kg", "age"], ["a", "b"], ["weight_kg q0.1", "age q0.1"], None):
        refuse_other_order(whole, fine)
    for wrong in (["age", "weight_kg"], ["age"], ["age", "height"]):
        with pytest.raises(DataError, match="in the same order"):
            refuse_other_order(whole, wrong)
