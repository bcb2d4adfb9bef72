"""Which images a path, a pattern, a folder, a tar, a table or a list stands for, and in which order."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

import petl
from petl.prediction.image_lists import list_images
from petl.prediction.streaming import find_images
from tests.prediction.conftest import NAMES
from tests.support.image_files import make_tar

ALL = ["a/6.png", "a/7.png", "a/7.5.png", *NAMES[2:], "b/cut.png"]  # in natural order, bad ones too


def test_a_folder_in_natural_order_with_names_below_it(pictures: Path) -> None:
    found = list_images(pictures)
    assert sorted(found.names) == sorted(ALL) and [name for name in found.names if name in NAMES] == NAMES
    assert list(found.items) == [str(pictures / name) for name in found.names]
    assert list(list_images(f"{pictures}/").names) == list(found.names)


def test_a_tar_gives_the_same(pictures: Path, tmp_path: Path) -> None:
    assert list(list_images(make_tar(pictures, tmp_path / "all.tar")).names) == list(list_images(pictures).names)


def test_several_sources_keep_their_order_and_whole_names(pictures: Path) -> None:
    b, a = str(pictures / "b"), str(pictures / "a" / "9.png")
    names = list(list_images([b, Path(a), "gone.png"]).names)
    assert names[:5] == [os.path.join(b, f"{n}.png") for n in range(6, 11)] and names[-2:] == [a, "gone.png"]


@pytest.mark.parametrize("pattern", ["*/*.png", "**/*.png", "**", "*", "[ab]/?*.png"])
def test_a_pattern_gives_each_file_once(pattern: str, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pictures)
    names = [name for name in list_images(pattern).names if name != "notes.txt"]
    assert sorted(names) == sorted(ALL) and [name for name in names if name in NAMES] == NAMES


def test_a_name_with_the_signs_of_a_pattern_is_a_name(pictures: Path) -> None:
    odd = pictures / "a[1]*.png"
    odd.write_bytes((pictures / "a" / "6.png").read_bytes())
    assert list(list_images(odd).items) == [str(odd)]


@pytest.mark.parametrize("head", ["path,label", "label,Image", "\ufefffilename,x"])
def test_a_table_lists_paths_beside_it(head: str, pictures: Path) -> None:
    column = [name.strip("\ufeff").lower() in ("path", "image", "filename") for name in head.split(",")].index(True)
    rows = [["x", "x"], ["y", "y"]]
    rows[0][column], rows[1][column] = "b/8.png", str(pictures / "a" / "6.png")
    (pictures / "list.csv").write_text("\n".join([head, *(",".join(row) for row in rows)]), encoding="utf-8")
    found = list_images(pictures / "list.csv")
    assert list(found.names) == ["b/8.png", str(pictures / "a" / "6.png")]
    assert list(found.items) == [str(pictures / "b" / "8.png"), str(pictures / "a" / "6.png")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label\nx", "no column for the path"),
        ("path,label\n,x", "row 1"),
        ("path\n", "no rows"),
        ("", "no rows"),
        ("img,file\na.png,b.png", "img, file.*--data path=img"),
    ],
)
def test_a_table_without_paths_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(petl.DataError, match=said):
        list_images(tmp_path / "list.csv")


def _text(end: str, separator: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        lines = [f"file_name{separator}image", *(f"b/{name}{separator}x" for name in ("8.png", "gone.png"))]
        (folder / f"list{end}").write_text("\n".join(lines).replace("image", "other"))
        return folder / f"list{end}"

    return write


def _lines(folder: Path) -> Path:
    (folder / "list.jsonl").write_text('{"path": "b/8.png"}\n{"path": "b/gone.png", "label": null}\n')
    return folder / "list.jsonl"


def _frame(folder: Path) -> Any:
    return pandas.DataFrame({"path": [str(folder / "b/8.png"), str(folder / "b/gone.png")], "label": [1, 2]})


def _parquet(folder: Path) -> Path:
    _frame(folder).to_parquet(folder / "list.parquet")
    return folder / "list.parquet"


@pytest.mark.parametrize(
    "table",
    [_text(".tsv", "\t"), _text(".csv", ";"), _text(".csv", ","), _lines, _parquet, _frame],
)
def test_every_table_that_trainings_read_lists_images(table: Callable[[Path], Any], pictures: Path) -> None:
    """Splits, missing files and missing targets are no obstacle: the pass names what can't be read."""
    found = find_images(table(pictures))
    assert list(found.items) == [str(pictures / "b/8.png"), str(pictures / "b/gone.png")]
    assert [Path(name).name for name in found.names] == ["8.png", "gone.png"]


def test_a_table_holds_images(pictures: Path) -> None:
    data = (pictures / "b" / "8.png").read_bytes()
    frame = pandas.DataFrame({"image": [{"bytes": data, "path": None}, {"bytes": data, "path": "x.png"}]})
    found = find_images(frame)
    assert list(found.names) == ["image 0", "x.png"] and list(found.items) == [data, data]
    assert list(list_images(_text(".csv", ",")(pictures), {"path": "other"}).names) == ["x", "x"]


@pytest.mark.parametrize(
    "images",
    [
        [Image.new("RGB", (4, 4))] * 2,
        [np.zeros((4, 4, 3), np.uint8)] * 2,
        np.zeros((2, 4, 4, 3), np.uint8),
        torch.zeros(2, 3, 4, 4),
        (torch.zeros(3, 4, 4), Image.new("L", (4, 4))),
    ],
)
def test_images_in_memory_have_numbers(images: Any) -> None:
    assert list(list_images(images).names) == ["image 0", "image 1"]


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (lambda: "", "empty path"),
        (list, "no images"),
        (lambda: 3, "a int"),
        (lambda: {"a": 1}, "a dict"),
        (lambda: {"a.png"}, "a set"),
        (lambda: torch.zeros(0, 3, 4, 4), "no images"),
        (lambda: torch.zeros(2, 3), "shape \\(2, 3\\)|a Tensor"),
        (lambda: [torch.zeros(3)], "a Tensor of shape \\(3,\\)"),
        (lambda: ["a.png", Image.new("L", (1, 1))], "a str"),
        (lambda: "nowhere/*.png", "no file matches"),
        (lambda: ["nowhere/*.png"], "no file matches"),
        (lambda: "nowhere.png", "no such folder or file"),
    ],
)
def test_what_is_no_source_is_refused(images: Callable[[], Any], said: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(petl.DataError, match=said):
        list_images(images())


def test_a_folder_without_images_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(petl.DataError, match=r"no images.*1 \.txt"):
        list_images(tmp_path)


def test_a_quick_look_finds_bad_files(pictures: Path) -> None:
    with pytest.raises(petl.DataError, match=r"^a/7\.5\.png: the file is empty"):
        list_images(pictures).refuse_bad_files()
