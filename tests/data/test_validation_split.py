"""Hold-outs and folds: even in everything, the same again, and never a patient on both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.model_selection import StratifiedGroupKFold
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from petl import data
from petl.data.stratification import assign, bins_of, deal, one_hot
from petl.errors import DataError
from tests.support.data import plain
from tests.support.table_files import csv_of


def pairs(targets: Any) -> TensorDataset:
    return TensorDataset(torch.zeros(len(targets), 1), torch.as_tensor(targets))


def parts_of(splits: list[tuple[Any, Any]]) -> list[list[int]]:
    """The validation images of each fold, after a check that train has all others."""
    count = len(splits[0][0]) + len(splits[0][1])
    for train, val in splits:
        assert sorted([*train.indices, *val.indices]) == list(range(count))
    return [list(val.indices) for _, val in splits]


def test_folds_are_even_and_repeatable() -> None:
    classes = np.repeat([0, 1, 2], [23, 11, 6])
    folds = parts_of(data.folds(pairs(classes), 5))
    assert sorted(image for fold in folds for image in fold) == list(range(40))
    counts = np.array([np.bincount(classes[fold], minlength=3) for fold in folds])
    assert (np.ptp(counts, axis=0) <= 1).all() and np.ptp(counts.sum(1)) <= 1
    assert folds == parts_of(data.folds(pairs(classes), 5))
    assert folds != parts_of(data.folds(pairs(classes), 5, seed=1))


@pytest.mark.parametrize("seed", range(4))
def test_groups_are_whole_and_as_even_as_scikit_learn_makes_them(seed: int) -> None:
    chance = np.random.default_rng(seed)
    groups = chance.integers(0, 40, 600)
    classes = np.where(chance.random(600) < 0.4, groups % 3, chance.integers(0, 3, 600))

    def unevenness(folds: list[Any]) -> float:
        shares = np.array([np.bincount(classes[np.asarray(fold)], minlength=3) for fold in folds]) / np.bincount(
            classes
        )
        return float(shares.std(0).mean())

    ours = parts_of(data.folds(pairs(classes), 5, groups=groups, seed=seed))
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    theirs = [test for _, test in splitter.split(classes, classes, groups)]
    assert sum(len({*groups[fold].tolist()}) for fold in ours) == len({*groups.tolist()})
    assert unevenness(ours) <= unevenness(theirs) + 0.005


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_a_hold_out_of_groups(fraction: float) -> None:
    chance = np.random.default_rng(0)
    groups, classes = chance.integers(0, 50, 500), chance.integers(0, 2, 500)
    train, val = data.holdout(pairs(classes), fraction, groups=[f"p{g}" for g in groups])
    assert not {*groups[train.indices].tolist()} & {*groups[val.indices].tolist()}
    assert abs(len(val) / 500 - fraction) < 0.04
    assert abs(classes[val.indices].mean() - classes.mean()) < 0.05


def test_a_class_of_one_group_stays_in_training() -> None:
    classes, groups = [0, 0, 0, 0, 1, 1], ["a", "b", "c", "d", "e", "e"]
    train, val = data.holdout(pairs(classes), 0.5, groups=groups)
    assert {4, 5} <= {*train.indices} and len(val)


def test_of_two_groups_one_is_held_out() -> None:
    train, val = data.holdout(pairs([0, 1] * 5), groups=["a"] * 6 + ["b"] * 4)
    assert ([*train.indices], [*val.indices]) == ([*range(6)], [*range(6, 10)])


def test_several_labels_keep_their_shares() -> None:
    hot = (np.random.default_rng(0).random((400, 5)) < [0.5, 0.2, 0.1, 0.05, 0.02]).astype(np.float32)
    folds = parts_of(data.folds(pairs(hot), 4))
    counts = np.array([hot[fold].sum(0) for fold in folds])
    assert (np.ptp(counts, axis=0) <= 2).all() and np.ptp([len(fold) for fold in folds]) <= 2
    _, val = data.holdout(pairs(hot), 0.25)
    assert np.allclose(hot[val.indices].sum(0), hot.sum(0) / 4, atol=1.5)


def test_numbers_keep_their_distribution() -> None:
    ages = np.random.default_rng(0).gamma(2.0, 10.0, 200).astype(np.float32)
    for fold in parts_of(data.folds(pairs(ages), 5)):
        assert (
            len(fold) == 40
            and np.abs(np.quantile(ages[fold], [0.25, 0.5, 0.75]) - np.quantile(ages, [0.25, 0.5, 0.75])).max() < 3
        )
    two = np.stack([ages, -ages], 1)
    assert {len(fold) for fold in parts_of(data.folds(pairs(two), 5))} == {40}
    _, val = data.holdout(pairs(ages), 0.2)
    assert len(val) == 40


def test_tables_know_their_groups(tmp_path: Path) -> None:
    rows = [f"{'ab'[i % 2]},p{i // 2},s{i // 6}" for i in range(24)]
    whole = data.dataset(csv_of(tmp_path, "path,label,patient,site", rows), plain(3), training=True)
    for train, val in data.folds(whole, 3):
        assert not {*train.groups} & {*val.groups} and (train.training, val.training) == (True, False)
    for options, size in (({"groups": "site"}, 6), ({"groups": lambda path: int(path[:-4].split("/")[-1]) // 6}, 6)):
        for _, val in data.folds(whole, 4, **options):
            assert len({int(Path(file).stem) // 6 for file in val.files}) == 1 and len(val) == size
    train, val = data.holdout(whole)
    assert not {*train.groups} & {*val.groups}
    train, val = data.holdout(Subset(ConcatDataset([whole]), range(20)))
    assert not {Path(whole.files[i]).stem for i in train.indices} & {Path(whole.files[i]).stem for i in val.indices}
    assert any({*train.groups} & {*val.groups} for train, val in data.folds(whole, 4, groups=False))
    again = data.folds(tmp_path / "pets.csv", 3, pipeline=plain(3))
    assert [val.files for _, val in again] == [val.files for _, val in data.folds(whole, 3)]


REFUSED: list[tuple[Any, int, dict[str, Any], str]] = [
    ([0, 0, 0, 1, 1], 3, {}, r"1 of 2 classes have fewer images than the 3 folds: 1 \(2\); pass a smaller k"),
    ([0, 0, 1, 1], 2, {"groups": ["a", "b", "c", "c"]}, r"1 of 2 classes have fewer groups than the 2 folds: 1 \(1\)"),
    ([0, 0, 1, 1], 5, {}, "4 images can't be divided into 5 folds"),
    ([0, 0, 1, 1], 2, {"seed": -1}, "seed=-1; expected a whole number of at least 0"),
    ([], 2, {}, "the dataset is empty"),
    ([0, 0, 1, 1], 1, {}, "k=1; expected a whole number of folds, at least 2"),
    ([0, 0, 1, 1], 2, {"groups": ["a", "b"]}, "groups= has 2 values for 4 images"),
    ([0, 0, 1, 1], 2, {"groups": ["a", None, "b", "c"]}, "1 of 4 images have no group, the first is image 1"),
    ([0, 0, 1, 1], 2, {"groups": "patient"}, "names a column, and this dataset comes from no table"),
    ([0, 0, 1, 1], 2, {"groups": str.upper}, "a TensorDataset has no files"),
    ([0, 0, 1, 1], 2, {"groups": {"a": 1}}, "expected one for each"),
    ([0, 0, 1, 1], 2, {"pipeline": plain(3)}, "pipeline= and options are for a folder or table"),
]


@pytest.mark.parametrize(("targets", "k", "options", "message"), REFUSED)
def test_what_cannot_be_divided_is_one_clear_error(targets: Any, k: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        data.folds(pairs(targets), k, **options)


def test_what_cannot_be_held_out(tmp_path: Path) -> None:
    whole = data.dataset(csv_of(tmp_path, "path,label,patient", ["a,p", "b,p", "a,p"]), plain(3))
    with pytest.raises(DataError, match="all images are of one group.*groups=False"):
        data.holdout(whole)
    assert len(data.holdout(whole, groups=False)[1]) == 1
    with pytest.raises(DataError, match=r"has no column 'doctor'.*it has path, label, patient"):
        data.holdout(whole, groups="doctor")
    for divide in (data.folds, data.holdout):
        with pytest.raises(DataError, match="is opened first"):
            divide(tmp_path / "pets.csv")
    with pytest.raises(DataError, match="only one image"):
        data.holdout(pairs([0, 1, 2]))


def test_the_algorithms() -> None:
    chance = np.random.default_rng(0)
    assert np.bincount(deal(np.zeros(10, dtype=int), 4, chance)).tolist() in ([3, 3, 2, 2], [2, 2, 3, 3])
    assert bins_of(np.full(6, np.nan), 2).tolist() == [1] * 6
    assert len({*bins_of(np.arange(100.0), 5).tolist()}) == 10
    hot = one_hot([np.array([3, 5, 3])])
    assert hot.tolist() == [[1, 0], [0, 1], [1, 0]]
    assert assign(hot, np.arange(3), [0.5, 0.5], chance, spare_last=True)[1] == 0  # the only one of its kind
