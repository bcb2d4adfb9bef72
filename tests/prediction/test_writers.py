"""Tables of answers as CSV, JSON lines and Parquet: all columns, any name, whole or not there."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import petl
from petl.prediction.columns import Layout, distinct
from petl.prediction.meaning import meaning_of
from petl.prediction.passes import Block
from petl.prediction.results import Predictions
from petl.prediction.writers import WRITERS, refuse_output, write_blocks
from tests.support.disk import small_files

ODD = ["a, b.png", 'say "hi".png', "new\nline.png", "return\r.png", "\t=1+1.png", "ünï.png", os.fsdecode(b"\xff.png")]


def answers(
    values: Any, names: list[str] | None = None, top: int | None = None, every: bool = True, **description: Any
) -> Predictions:
    array = np.asarray(values, dtype=np.float32)
    layout = Layout(meaning_of(description, array.shape[1]), top, every)
    return Predictions(layout, names or [f"{n}.png" for n in range(len(array))], array, [])


def rows_of(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_a_csv_gives_numbers_and_names_back(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((len(ODD), 3), dtype=np.float32)
    found = answers(values, ODD, labels=["cat", "a, b", "dog"])
    head, *rows = rows_of(found.to_csv(tmp_path / "x.csv"))
    assert head == ["image", "label", "confidence", "cat", "a, b", "dog"]
    assert [row[0] for row in rows] == [*ODD[:-1], "\\xff.png"]
    assert np.array_equal(np.array([row[3:] for row in rows], dtype=np.float32), values)
    assert [row[1] for row in rows] == [found.labels[k] for k in values.argmax(1)]
    assert [float(row[2]) for row in rows] == pytest.approx(values.max(1).tolist(), rel=1e-8)


def test_json_lines_are_the_rows(tmp_path: Path) -> None:
    found = answers(np.random.default_rng(0).random((len(ODD), 3)), ODD, labels=["image", "label", "x"], top=2)
    text = found.to_jsonl(tmp_path / "x.jsonl").read_bytes()
    assert text.isascii() and [json.loads(line) for line in text.splitlines()] == list(found)
    assert list(found[0]) == ["image", "label", "confidence", "predictions", "probabilities"]


def test_parquet_and_frames_have_the_columns_of_the_csv(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    for given in ({}, {"task": "multilabel"}, {"task": "regression", "units": "years"}, {"task": "metric"}):
        found = answers(np.random.default_rng(0).random((len(ODD), 3)), ODD, **given)
        frame = pandas.read_parquet(found.to_parquet(tmp_path / "x.parquet"))
        assert list(frame) == list(found.to_frame()) == rows_of(found.to_csv(tmp_path / "x.csv"))[0]
        assert frame["image"].tolist() == found.to_frame()["image"].tolist() and frame.dtypes.iloc[-1] == np.float32
        assert np.array_equal(frame[frame.columns[-3:]].to_numpy(), found.values)


@pytest.mark.parametrize(
    ("description", "options", "head", "row"),
    [
        ({}, {"every": False}, ["image", "label", "confidence"], ["1", "0.75"]),
        ({}, {"every": False, "top": 2}, ["image", "label", "confidence", "label_2", "confidence_2"], ["1", "0.75", "0", "0.25"]),
        ({}, {"top": 9, "every": False}, ["image", "label", "confidence", "label_2", "confidence_2"], ["1", "0.75", "0", "0.25"]),
        ({"task": "multilabel"}, {}, ["image", "labels", "confidences", "0", "1"], ["1", "0.75", "0.25", "0.75"]),
        ({"task": "multilabel"}, {"top": 2, "every": False}, ["image", "labels", "confidences"], ["1;0", "0.75;0.25"]),
        ({"task": "multilabel", "thresholds": [0.9, 0.9]}, {"every": False}, ["image", "labels", "confidences"], ["", ""]),
        ({"task": "regression", "labels": ["w", "h"]}, {"every": False}, ["image", "w", "h"], ["0.25", "0.75"]),
        ({"task": "regression", "units": ["kg", "cm"]}, {}, ["image", "units", "0", "1"], ["kg;cm", "0.25", "0.75"]),
        ({"task": "metric", "labels": ["cat"]}, {}, ["image", "0", "1"], ["0.25", "0.75"]),
        ({"task": "ordinal", "labels": ["low", "high"]}, {"every": False}, ["image", "label", "confidence"], ["high", "0.75"]),
    ],
)  # fmt: skip
def test_columns_by_task(description: Any, options: Any, head: list[str], row: list[str], tmp_path: Path) -> None:
    found = answers([[0.25, 0.75]], **options, **description)
    assert rows_of(found.to_csv(tmp_path / "x.csv")) == [head, ["0.png", *row]]


def test_one_value_has_its_unit(tmp_path: Path) -> None:
    found = answers([[4.5]], labels=["age"], task="regression", units="years")
    assert rows_of(found.to_csv(tmp_path / "x.csv")) == [["image", "units", "value"], ["0.png", "years", "4.5"]]
    assert found[0] == {"image": "0.png", "value": 4.5, "units": "years"} and "age 4.5 years" in repr(found)


def test_labels_that_are_columns_already_get_a_number(tmp_path: Path) -> None:
    labels = ["image", "label", "confidence", "x", "x", "x (2)"]
    head = rows_of(answers(np.eye(6), labels=labels).to_csv(tmp_path / "x.csv"))[0]
    assert head == ["image", "label", "confidence", "image (2)", "label (2)", "confidence (2)", "x", "x (3)", "x (2)"]
    assert len({*head}) == len(head) and distinct(["image"]) == ["image"]


def test_a_thousand_classes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((3, 1000), dtype=np.float32)
    found = rows_of(answers(values).to_csv(tmp_path / "x.csv"))
    assert {len(row) for row in found} == {1003}
    assert np.array_equal(np.array([row[3:] for row in found[1:]], dtype=np.float32), values)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("error", [ValueError("ours"), OSError("ours"), KeyboardInterrupt(), petl.DataError("ours")])
def test_what_ends_in_the_middle_leaves_nothing(
    ending: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the one of the work, not one of the disk, and an older file stays."""
    monkeypatch.setattr("petl.prediction.writers.CELLS_AT_ONCE", 9)
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    layout, old = Layout(meaning_of({}, 2)), tmp_path / f"old{ending}"
    old.write_text("old")

    def blocks() -> Iterator[tuple[Layout, Block]]:
        for n in range(9):
            if n == 5:
                raise error
            yield layout, Block([f"{n}.png"], np.zeros((1, 2), np.float32), [])
            assert not (tmp_path / f"new{ending}").exists()

    for path in (old, tmp_path / f"new{ending}"):
        with pytest.raises(type(error), match="ours" if str(error) else None):
            write_blocks(path, blocks())
    assert [path.name for path in tmp_path.iterdir()] == [old.name] and old.read_text() == "old"


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    found = answers(np.zeros((2000, 50)))
    with small_files(1 << 14), pytest.raises(petl.PetlError, match=r"can't write .*x\.csv"):
        found.to_csv(tmp_path / "x.csv")
    assert not list(tmp_path.iterdir())


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pandas", None)
    found = answers([[1.0, 0.0]])
    for question in (lambda: found.to_parquet(tmp_path / "x.parquet"), found.to_frame):
        with pytest.raises(petl.StateError, match=r'pip install "petl-vision\[tables\]"'):
            question()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x", "x.txt", "x.CSV/", "folder.csv", "nowhere/x.csv", "x.csv.gz", "a\0.csv"])
def test_outputs_that_cant_be_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(petl.StateError):
        refuse_output(tmp_path / name) if not name.endswith("/") else refuse_output(tmp_path / "nowhere" / name)
    with pytest.raises(petl.StateError, match=r"ends with \.csv"):
        answers([[1.0, 0.0]]).to_csv(tmp_path / "x.jsonl")


def test_a_new_parquet_row_group_when_enough_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("petl.prediction.writers.CELLS_AT_ONCE", 20)
    layout = Layout(meaning_of({}, 2))
    held: list[int] = []

    def blocks() -> Iterator[tuple[Layout, Block]]:
        for n in range(10):
            yield layout, Block([f"{n}.png"], np.zeros((1, 2), np.float32), [])
            held.append(len(list(tmp_path.glob(".petl-*"))))

    write_blocks(tmp_path / "x.parquet", blocks())
    assert parquet.ParquetFile(tmp_path / "x.parquet").num_row_groups == 3 and held == [1] * 10
    assert set(WRITERS) == {".csv", ".jsonl", ".parquet"}
