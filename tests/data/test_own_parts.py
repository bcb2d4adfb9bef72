"""The parts of folders, tables, pairs and datasets: what is learned from, and what its own split holds out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import petl
from petl.data.own_parts import own_parts
from tests.support.feature_data import small


def filled(root: Path, *folders: str) -> Path:
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(root / folder / f"{number}.png")
    return root


def sizes(data: object) -> tuple[int, int | None]:
    train, rest = own_parts(data, petl.data.pipeline(small()))
    return len(train), None if rest is None else len(rest)


def test_folders(tmp_path: Path) -> None:
    plain = filled(tmp_path / "plain", "cat", "dog")
    split = filled(tmp_path / "split", "train/cat", "train/dog", "val/cat", "test/cat", "test/dog")
    tested = filled(tmp_path / "tested", "Training/cat", "Training/dog", "Testing/dog")
    assert sizes(plain) == (2, None) and sizes(str(split)) == (2, 1) and sizes(tested) == (2, 1)
    assert sizes((plain, tested / "Testing")) == (2, 1)
    train, rest = own_parts(tested, petl.data.pipeline(small()))
    assert train.classes == rest.classes and int(rest[0][1]) == 1
    with pytest.raises(petl.DataError, match="has only the split"):
        sizes(filled(tmp_path / "odd", "val/cat", "val/dog"))


def test_tables(tmp_path: Path) -> None:
    filled(tmp_path, "a", "b", "c")
    rows = ["a/0.png,cat,train", "b/1.png,dog,train", "c/2.png,cat,val"]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,split", *rows]))
    (tmp_path / "plain.csv").write_text("\n".join(["path,label", *(row.rpartition(",")[0] for row in rows)]))
    assert sizes(tmp_path / "t.csv") == (2, 1) and sizes(tmp_path / "plain.csv") == (3, None)


def test_datasets() -> None:
    data = TensorDataset(torch.zeros(5, 3, 8, 8), torch.arange(5))
    assert sizes(data) == (5, None) and sizes((data, data)) == (5, 5) and sizes(DataLoader(data)) == (5, None)
    with pytest.raises(petl.DataError, match="got a generator"):
        sizes(pair for pair in data)


def test_classes_called_like_splits(tmp_path: Path) -> None:
    vehicles = filled(tmp_path / "vehicles", "train", "plane", "val")
    with pytest.raises(petl.DataError, match=r"petl eval, shift, report: --split \."):
        sizes(vehicles)
    train, rest = own_parts(vehicles, petl.data.pipeline(small()), split=".")
    assert train.classes == ["plane", "train", "val"] and rest is None
    both = filled(tmp_path / "both", "train/train", "train/val", "val/train", "val/val")
    with pytest.raises(petl.DataError, match=r"both/train'.*split='\.'"):
        sizes(both)
    train, rest = own_parts((both / "train", both / "val"), petl.data.pipeline(small()), split=".")
    assert train.classes == rest.classes == ["train", "val"]
    whole = own_parts(filled(tmp_path / "all", "train/cat", "val/cat"), petl.data.pipeline(small()), split=None)
    assert len(whole.train) == 2 and whole.rest is None
