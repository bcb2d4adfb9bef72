"""`Features`: parts of it, its sentences, and its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

import petl
from petl import Features


def full() -> Features:
    return Features(
        torch.arange(12.0).reshape(4, 3),
        torch.tensor([1, 0, 1, 1]),
        ["cat", "dog"],
        {"blocks.0": torch.ones(4, 2), "blocks.1": torch.eye(4)},
        torch.zeros(4, 3, 8, 8),
        ["a.png", "b.png", "c.png", "d.png"],
        {"e.png": "it is empty"},
        "test_vit",
    )


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        (slice(1, 3), [1, 2]),
        ([2, 0], [2, 0]),
        (range(2), [0, 1]),
        (-1, [3]),
        (np.int64(2), [2]),
        (np.array([3, 3]), [3, 3]),
        (torch.tensor([0, -2]), [0, 2]),
        (torch.tensor([True, False, False, True]), [0, 3]),
        (np.array([False, True, False, False]), [1]),
        ([True, True, False, False], [0, 1]),
        ([], []),
    ],
    ids=str,
)
def test_parts(key: Any, rows: list[int]) -> None:
    f, part = full(), full()[key]
    assert len(part) == len(rows)
    assert torch.equal(part.x, f.x[rows]) and part.y is not None and torch.equal(part.y, f.y[rows])  # type: ignore[index]
    assert part.files == [f.files[row] for row in rows]  # type: ignore[index]
    assert part.inputs is not None and part.inputs.shape == (len(rows), 3, 8, 8)
    assert torch.equal(part.blocks["blocks.1"], torch.eye(4)[rows])  # type: ignore[index]
    assert part.classes == ["cat", "dog"] and repr(part)


@pytest.mark.parametrize("key", [4, -5, [0, 9], "x", 1.5, [0.5], [True, False], None, True], ids=str)
def test_no_parts(key: Any) -> None:
    with pytest.raises(IndexError):
        full()[key]


def test_it_ends_where_a_loop_does() -> None:
    assert [float(one.x[0, 0]) for one in full()] == [0, 3, 6, 9]  # type: ignore[attr-defined]  # by __getitem__


def test_sentences() -> None:
    assert repr(full()) == (
        "Features of 4 images, 3 numbers each: what the classifier of test_vit takes, computed. 2 classes (cat, dog) with 1 to 3 "
        "images each. Outputs of 2 blocks, 2 to 4 numbers each. The images at 3 x 8 x 8 values. Left out: 1 file that can't be "
        "read, e.png (it is empty)."
    )
    assert "no labels" in repr(Features(torch.eye(2)))
    assert "The targets are 1 number for each image." in repr(Features(torch.eye(2), torch.rand(2)))
    assert "3 numbers for each image" in repr(Features(torch.eye(2), torch.rand(2, 3)))
    values = json.loads(json.dumps(full().to_json()))
    assert values["per_class"] == {"cat": 1, "dog": 3} and values["blocks"] == {"blocks.0": 2, "blocks.1": 4}
    assert Features(torch.eye(2), torch.rand(2)).to_json()["targets"] == "numbers"


@pytest.mark.parametrize("f", [full(), Features(torch.eye(3)), Features(torch.eye(3), torch.rand(3, 2))], ids=len)
def test_saved_and_loaded(f: Features, tmp_path: Path) -> None:
    path = f.save(tmp_path / "f.safetensors")
    again = Features.load(str(path))
    assert again.to_json() == f.to_json()

    def tables(each: Features) -> list[Tensor]:
        return [t for t in (each.x, each.y, each.inputs, *(each.blocks or {}).values()) if t is not None]

    assert all(torch.equal(one, other) for one, other in zip(tables(f), tables(again), strict=True))
    assert list(again.blocks or {}) == list(f.blocks or {})


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(petl.DeltaError, match="is not a folder"):
        full().save(tmp_path / "no" / "f.safetensors")
    path = full().save(tmp_path / "f.safetensors")
    header = {"format": 1, **full().to_json()}
    hostile: dict[str, Any] = {
        "another format": {**header, "format": 2},
        "other lengths": {**header, "files": ["a"]},
        "a block that isn't there": {**header, "blocks": {"x": 1}},
        "no dict": 3,
        "no classes": {key: value for key, value in header.items() if key != "classes"},
    }
    for contents in hostile.values():
        safetensors.torch.save_file({"x": torch.eye(4)}, path, {"petl.features": json.dumps(contents)})
        with pytest.raises(petl.DataError, match="holds no features"):
            Features.load(path)
    for data in (b"", b"no file of tensors", path.read_bytes()[:40]):
        path.write_bytes(data)
        with pytest.raises(petl.DataError, match="holds no features"):
            Features.load(path)
    with pytest.raises(petl.DataError, match="holds no features"):
        Features.load(tmp_path / "none.safetensors")
