"""Tables of paths and targets, in every file and container: what they give, and one clear error for what they can't."""

from __future__ import annotations

import gzip
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import petl
from petl import data
from petl.errors import DataError
from tests.support.data import plain
from tests.support.image_files import damaged, picture
from tests.support.table_files import csv_of, images

TWO = [("im/0.png", "cat"), ("im/1.png", "dog")]


def read(source: Any, **options: Any) -> data.Images:
    found = data.dataset(source, plain(3), **options)
    assert isinstance(found, data.Images)
    return found


def text_of(delimiter: str = ",", end: str = "\n", first: str = "") -> str:
    lines = [f"path{delimiter}label", *(delimiter.join(row) for row in (("im/0.png", "cät"), ("im/1.png", "dog")))]
    return first + end.join(lines) + end


FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "commas": ("a.csv", lambda: text_of().encode()),
    "a mark of UTF-8": ("a.csv", lambda: text_of().encode("utf-8-sig")),
    "UTF-16, as Excel writes it": ("a.csv", lambda: text_of("\t", "\r\n").encode("utf-16")),
    "semicolons": ("a.csv", lambda: text_of(";").encode()),
    "semicolons that the first line names": ("a.csv", lambda: text_of(";", "\r\n", "sep=;\r\n").encode()),
    "bars": ("a.csv", lambda: text_of("|").encode()),
    "CRLF": ("a.csv", lambda: text_of(end="\r\n").encode()),
    "CR": ("a.csv", lambda: text_of(end="\r").encode()),
    "tabs": ("a.tsv", lambda: text_of("\t").encode()),
    "backslashes": ("a.csv", lambda: text_of().replace("im/", "im\\").encode()),
    "spaces and empty lines": ("a.csv", lambda: text_of(" , ", " \n\n").encode()),
    "a delimiter at each end": ("a.csv", lambda: text_of(end=",\n").encode()),
    "pandas' index": ("a.csv", lambda: b",path,label\n" + "0,im/0.png,cät\n1,im/1.png,dog\n".encode()),
    "compressed": ("a.csv.gz", lambda: gzip.compress(text_of().encode())),
    "JSON lines": (
        "a.jsonl",
        lambda: b'{"path": "im/0.png", "label": "c\\u00e4t"}\n{"path": "im/1.png", "label": "dog"}\n',
    ),
    "a JSON list": (
        "a.json",
        lambda: b'[{"file": "im/0.png", "class": "c\\u00e4t"}, {"file": "im/1.png", "class": "dog"}]',
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_however_it_is_written(tmp_path: Path, name: str) -> None:
    images(tmp_path, 2)
    file, content = FILES[name]
    (tmp_path / file).write_bytes(content())
    found = read(tmp_path / file)
    assert (found.classes, found.targets.tolist(), found.task) == (["cät", "dog"], [0, 1], "classification")
    assert found.files == [str(tmp_path / "im" / f"{i}.png") for i in range(2)]
    folder = tmp_path / "folder"
    (folder / "cät").mkdir(parents=True)
    picture(0).save(folder / "cät" / "0.png")
    assert torch.equal(found[0][0], read(folder)[0][0])


def test_parquet_and_data_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    files = images(tmp_path, 3)
    frame = pandas.DataFrame(
        {
            "path": files,
            "label": pandas.Categorical(["b", "a", "b"]),
            "tags": [["x"], ["x", "y"], []],
            "age": [1.0, 2.5, 4],
        },
        index=[7, 8, 9],
    )
    frame.to_parquet("pets.parquet")
    import pyarrow.parquet

    for source in (frame, "pets.parquet", pyarrow.parquet.read_table("pets.parquet")):
        assert read(source, label="label").targets.tolist() == [1, 0, 1]
        assert read(source, labels="tags").targets.tolist() == [[1, 0], [1, 1], [0, 0]]
        assert read(source, targets=["age"]).targets.tolist() == [1, 2.5, 4]
    for empty in (pandas.Series([1, math.nan, 2]), pandas.Series(["a", pandas.NA, "b"], dtype="string")):
        with pytest.raises(DataError, match="1 of 3 rows have no label in 'label', the first is row 2"):
            read(pandas.DataFrame({"path": files, "label": empty}))
    (tmp_path / "no.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match=r"no\.parquet is no Parquet file"):
        read("no.parquet")


def test_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = images(tmp_path, 2)
    for source, options in (
        (TWO, {}),
        ([(Path(file), label) for file, label in TWO], {}),
        (files, {"labels": ["cat", "dog"]}),
        (files, {"labels": np.array(["cat", "dog"]), "group": torch.tensor([3, 3])}),
        ([{"image": file, "label": label} for file, label in TWO], {}),
        ([(picture(0), "cat"), (picture(1), "dog")], {}),
    ):
        found = read(source, **options)
        assert (found.classes, found.targets.tolist(), found[1][1]) == (["cat", "dog"], [0, 1], 1)
        assert torch.equal(found[0][0], read(TWO)[0][0])
    assert read(files, targets=torch.tensor([1.5, 2])).targets.tolist() == [1.5, 2]
    assert read(files, targets=[[1, 2], [3, 4]])[1][1].tolist() == [3, 4]
    assert read(files, labels=[["a"], ["b", "a"]]).targets.tolist() == [[1, 0], [1, 1]]
    for source, options, message in (
        (files, {}, "has no labels; expected pairs"),
        (files, {"labels": ["cat"]}, "labels= has 1 values for 2 paths"),
        ([TWO[0], "im/1.png"], {}, "a list of pairs and paths; expected one kind"),
        (files, {"targets": [[1], [1, 2]]}, "targets= has 1, 2 numbers for an image"),
        (3, {}, "got a int to read images from"),
    ):
        with pytest.raises(DataError, match=message):
            read(source, **options)


@pytest.mark.parametrize(
    ("header", "rows", "options", "classes", "targets"),
    [
        ("path,label", ["10", "9", "9"], {}, ["9", "10"], [1, 0, 0]),
        ("path,label", ["007", "10", "08"], {}, ["007", "08", "10"], [0, 2, 1]),
        ("path,label", ["1", "0", "1"], {"classes": ["cat", "dog"]}, ["cat", "dog"], [1, 0, 1]),
        ("path,label", ["1", "0", "1"], {"classes": ["0", "1", "2"]}, ["0", "1", "2"], [1, 0, 1]),
        ("path,label", ["1", "x", "1"], {"classes": ["1", "x"]}, ["1", "x"], [0, 1, 0]),
        ("path,label", ['"Tench, Tinca"', "v1.0", "None"], {}, ["None", "Tench, Tinca", "v1.0"], [1, 2, 0]),
        ("Image Path,Class_Name", ["b", "a", "b"], {}, ["a", "b"], [1, 0, 1]),
        ("f,l", ["b", "a", "b"], {"columns": {"path": "f", "label": "l"}}, ["a", "b"], [1, 0, 1]),
        ("f,l", ["b", "a", "b"], {"path": "f", "label": "l"}, ["a", "b"], [1, 0, 1]),
        ("path,labels", ["a|b", "c", "b"], {}, ["a", "b", "c"], [[1, 1, 0], [0, 0, 1], [0, 1, 0]]),
        ("path,tags", ["a;b", "b", "[]"], {}, ["a", "b"], [[1, 1], [0, 1], [0, 0]]),
        ("path,tags", ['"a, b"', "b", "[]"], {"labels": "tags"}, ["a", "b"], [[1, 1], [0, 1], [0, 0]]),
        ("path,tags", ["a;b", "c|d", "[]"], {"separator": "|"}, ["a;b", "c", "d"], [[1, 0, 0], [0, 1, 1], [0, 0, 0]]),
        ("path,labels", ["\"['a', 'b']\"", '"[""b""]"', "[]"], {}, ["a", "b"], [[1, 1], [0, 1], [0, 0]]),
        ("path,x,y", ["1,0", "false,true", "yes,no"], {"labels": ["y", "x"]}, ["y", "x"], [[0, 1], [1, 0], [0, 1]]),
        ("path,x,y", ["1,0", "0,1", "1,0"], {"labels": ["x"]}, ["x"], [[1], [0], [1]]),
        ("path,age", ["1.5", "-2", "3e1"], {"targets": "age"}, [], [1.5, -2, 30]),
        ("path,age", ["1.5", "-2", "3e1"], {"columns": {"targets": ["age"]}}, [], [1.5, -2, 30]),
        ("path,x,y", ["1,2", "3,4", "5,6"], {"targets": ["y", "x"]}, [], [[2, 1], [4, 3], [6, 5]]),
    ],
)
def test_targets(tmp_path: Path, header: str, rows: list[str], options: Any, classes: Any, targets: Any) -> None:
    found = read(csv_of(tmp_path, header, rows), **options)
    assert (found.classes, found.targets.tolist()) == (classes, targets)
    assert [np.asarray(target).tolist() for _, target in found] == targets
    batch = next(iter(data.loader(found, batch_size=3)))[1]
    assert batch.dtype == (torch.int64 if found.task == "classification" else torch.float32)
    assert batch.tolist() == targets
    assert pickle.loads(pickle.dumps(found)).targets.tolist() == targets


def test_what_is_not_known_is_nan(tmp_path: Path) -> None:
    """In a column for each label or number; a file that can't be read is so too. A label that no image has is 0."""
    file = csv_of(tmp_path, "path,x,y", ["1,", "0,1", ",3"])
    numbers = read(file, targets=["x", "y"])
    assert np.isnan(numbers.targets).tolist() == [[False, True], [False, False], [True, False]]
    assert numbers.target_names == ["x", "y"]
    damaged(tmp_path, "im/2.png")
    assert next(iter(data.loader(numbers, batch_size=3)))[1][2].isnan().all()
    one = read(csv_of(tmp_path, "path,age", ["1", "2", "3"]), targets="age")
    damaged(tmp_path, "im/1.png")
    assert next(iter(data.loader(one, batch_size=3)))[1].isnan().tolist() == [False, True, False]
    hot = read(csv_of(tmp_path, "path,x", ["1", "0", "1"]), labels=["x"], classes=["w", "x"])
    assert hot.targets[:, 1].tolist() == [1, 0, 1] and np.isnan(hot.targets[:, 0]).all()
    listed = read(csv_of(tmp_path, "path,tags", ["x|y", "x", "x"]), labels="tags", classes=["w", "y", "x"])
    assert listed.targets.tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 1]]


REFUSED: list[tuple[str, list[str], dict[str, Any], str]] = [
    (
        "pth,label",
        ["a", "b"],
        {},
        r"no column for the path of the image \(its columns are 'pth', 'label'\); name it: path=",
    ),
    ("path,lab", ["a", "b"], {}, r"no column for the label \(its columns are 'path', 'lab'\)"),
    ("path,label", ["a", "b"], {"label": "lable"}, "no column 'lable' for label; near names: label; its columns are"),
    ("path,label", ["a", "b"], {"lable": "label"}, "is a table and has no option 'lable'; near names: label"),
    ("path,label", ["a", "b"], {"columns": {"pth": "path"}}, "columns= has 'pth'; near names: path"),
    ("path,label,class", ["a,1", "b,2"], {}, "several columns that may be the label: label, class; say which"),
    ("path,label", ["a", "b"], {"label": "label", "targets": "label"}, "got label= and targets=; expected one of them"),
    ("path,path", ["a", "b"], {}, "several columns of the name 'path'"),
    ("path,label", ["Tench, Tinca", "b"], {}, "row 1 has 3 cells and the header 2.*need quotes"),
    ("path,label", ['"a', "b"], {}, "is no CSV"),
    ("path,label", ["", "nan", "b"], {}, "2 of 3 rows have no label in 'label', the first is row 1"),
    ("path,label", ["0.0", "1.0", "2"], {}, r"2 of 3 rows have a number with a decimal point in 'label' \('0.0'\)"),
    (
        "path,label",
        ["1", "cat", "2"],
        {},
        r"1 of 3 rows have a name in 'label' \('cat'\) where others have a number",
    ),
    (
        "path,label",
        ["0", "7"],
        {"classes": ["a", "b"]},
        "isn't one of the 2 classes .*the first is row 2; expected 0 to 1",
    ),
    ("path,label", ["cat", "cow"], {"classes": ["cat", "dog"]}, "class 'cow' is not among the 2 expected classes"),
    ("path,labels", ["a|b", ""], {}, r"1 of 2 rows have no labels in 'labels', the first is row 2; write \[\]"),
    ("path,labels", ["a|b", "c;d"], {}, r"may be separated by '\|' or ';'; say by which: separator='\|'"),
    ("path,x", ["1", "0"], {"labels": "x"}, r"'x' holds 0 and 1 alone; columns=\{'labels': \['x'\]\}"),
    ("path,x", ["1", "2"], {"labels": ["x"]}, "1 of 2 rows have '2' in 'x', the first is row 2; expected 0 or 1"),
    (
        "path,age",
        ["1", "old"],
        {"targets": "age"},
        "1 of 2 rows have 'old' in 'age', the first is row 2; expected a finite number",
    ),
    ("path,age", ["1", "inf"], {"targets": "age"}, "have 'inf' in 'age'"),
    ("path,age", ["1", ""], {"targets": "age"}, "1 of 2 rows have no value in 'age', the first is row 2"),
    (
        "path,label,split",
        ["a,train", "b,foo"],
        {},
        r"1 of 2 rows have an unknown split in 'split' \('foo'\), the first is row 2",
    ),
    (
        "path,label,split",
        ["a,train", "b,test"],
        {"split": "val"},
        "no rows of split 'val'; its splits in 'split' are test, train",
    ),
    (
        "path,label",
        ["a", "b"],
        {"split": "val"},
        "no column for the split, so there is no 'val'; name the column: split_column=",
    ),
    ("path,label,patient", ["a,p", "b,"], {}, "1 of 2 rows have no group in 'patient', the first is row 2"),
    ("path,label,weight", ["a,-1", "b,x"], {}, "2 of 2 rows have no weight in 'weight', the first is row 1"),
]


@pytest.mark.parametrize(("header", "rows", "options", "message"), REFUSED)
def test_what_a_table_cannot_be_is_one_clear_error(
    tmp_path: Path, header: str, rows: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(csv_of(tmp_path, header, rows), **options)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "path,label\nim/0.png,cät\n".encode("latin-1"),
            r"no text in utf-8: line 2 has b'\\xe4'; save it as UTF-8, or",
        ),
        ("a.csv", b"path,label\n", "has no rows; expected a header"),
        ("a.csv", b"", "has no rows"),
        (
            "a.csv",
            b"path,label\nim/0.png,a\nim/8.png,a\nim/9.png,a\n",
            "2 of 3 rows name a file that isn't there, the first is row 2",
        ),
        ("a.csv", b"path,label\n,a\nim/0.png,a\n", "1 of 2 rows have no path in 'path', the first is row 1"),
        ("a.csv", b"path,label\nim/0.png,a\n./im/0.png,b\n", "1 of 2 rows give a file another label .*first in row 1"),
        (
            "a.csv",
            b"path,label,split\nim/0.png,a,val\nim/0.png,a,train\n",
            "1 of 2 rows name a file that is in another split too",
        ),
        (
            "a.jsonl",
            b'{"path": "im/0.png", "label": "a"}\n{"path": "im/1.png", "label": 3}\n',
            "have a name in 'label'",
        ),
        ("a.jsonl", b'{"path": "im/0.png", "label": ["a"]}\n', r"a list in 'label'.* columns=\{'labels': 'label'\}"),
        ("a.jsonl", b'{"path": "im/0.png", "label": 1.0}\n', "with a decimal point in 'label'"),
        ("a.jsonl", b'{"path": "im/0.png"}\n["im/1.png"]\n', "row 2 is no JSON object"),
        ("a.jsonl", b'{"path": \n', "neither JSON lines nor a JSON list"),
        ("a.csv.gz", b"path,label\n", "can't be read"),
    ],
)
def test_what_a_file_cannot_be_is_one_clear_error(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    images(tmp_path, 2)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / name)


def test_the_advice_in_errors_works(tmp_path: Path) -> None:
    images(tmp_path, 2)
    (tmp_path / "a.csv").write_bytes("path,label\nim/0.png,cät\nim/1.png,dog\n".encode("cp1252"))
    assert read(tmp_path / "a.csv", encoding="cp1252").classes == ["cät", "dog"]
    floats = csv_of(tmp_path, "path,label", ["1.0", "2.0"])
    assert read(floats, columns={"targets": ["label"]}).task == "regression"
    flags = csv_of(tmp_path, "path,x", ["1", "0"])
    assert read(flags, columns={"labels": ["x"]}).task == "multilabel"
    odd = csv_of(tmp_path, "path,label,split,patient,weight", ["a,foo,,", "b,,p,-1"])
    assert len(read(odd, columns={"split": None, "group": None, "weight": None})) == 2
    assert read(odd, columns={"group": None, "weight": None}, split="foo").classes == ["a"]


def test_paths(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Relative to the table's folder or to root=, or absolute; a row that says the same again is left out."""
    files = images(tmp_path, 2)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "a.csv").write_text(f"file,label\n{files[0]},a\n{tmp_path / files[1]},b\n./{files[0]},a\n")
    with pytest.raises(DataError, match="isn't there, the first is row 1.*root= names another folder"):
        read(tmp_path / "lists" / "a.csv")
    found = read(tmp_path / "lists" / "a.csv", root=tmp_path)
    assert found.files == [str(tmp_path / file) for file in files]
    assert "left out rows that repeat another: 1, the first is row 3" in caplog.text


def test_splits_groups_and_weights(tmp_path: Path) -> None:
    rows = ["a,Training,p,1", "b,tr,p,2", "a,dev,q,3", "b,TEST,r,0"]
    file = csv_of(tmp_path, "path,label,split,patient_id,weight", rows)
    assert [len(read(file, split=split)) for split in ("train", "val", "test", "validation", None, ".")] == [
        2,
        1,
        1,
        1,
        4,
        4,
    ]
    assert (data.has_split(file, "val"), data.held_out(file), list(data.splits(file))) == (
        True,
        "val",
        ["train", "val", "test"],
    )
    train = read(file)
    assert train.groups is not None and train.groups.tolist() == ["p", "p"]
    assert train.weights is not None and train.weights.tolist() == [1, 2]
    assert train.part([1], training=False).weights.tolist() == [2]  # type: ignore[union-attr]  # as above
    plain_file = csv_of(tmp_path, "path,label,phase", ["a,one", "b,two", "a,one"])
    assert read(plain_file).groups is read(plain_file).weights is None
    assert not data.has_split(plain_file, "train")
    assert len(read(plain_file, split_column="phase", split="one")) == 2
    valid = csv_of(tmp_path, "path,label,is_valid", ["a,True", "b,False", "a,False"])
    assert (len(read(valid)), len(read(valid, split="val"))) == (2, 1)
    alone = csv_of(tmp_path, "path,label,split", ["a,train", "b,train"])
    with pytest.raises(DataError, match="rows of split 'train' alone"):
        data.held_out(alone)


def test_damaged_files_in_a_table(tmp_path: Path) -> None:
    file = csv_of(tmp_path, "path,label", ["a", "b", "a", "b"])
    damaged(tmp_path, "im/2.png")
    good, bad = data.sift(read(file))
    assert (good.files, list(bad)) == ([str(tmp_path / f"im/{i}.png") for i in (0, 1, 3)], [str(tmp_path / "im/2.png")])
    with pytest.raises(DataError, match=r"1 of 4 images can't be read: .*2\.png"):
        data.sift(read(file), strict=True)


@pytest.mark.usefixtures("fresh_accelerate")
def test_fit_and_evaluate_take_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the table's own splits, with the features cached as those of folders are."""
    monkeypatch.chdir(tmp_path)
    csv_of(tmp_path, "path,label,split", ["a,train", "b,train", "a,train", "b,train", "a,val", "b,val"])
    model = petl.wrap(timm.create_model("test_resnet"), "probe", num_classes=2)
    given: dict[str, Any] = {"epochs": 1, "lr": 1e-3, "progress": False, "cache": "cache"}
    history = petl.fit(model, "pets.csv", "pets.csv", **given)
    assert petl.record(model).labels == ["a", "b"]  # type: ignore[union-attr]  # wrapped
    assert "4 images" in history.features
    assert "found there" in petl.fit(model, "pets.csv", **given).features
    (tmp_path / "pets.csv").write_text((tmp_path / "pets.csv").read_text().replace("im/1.png,b", "im/1.png,a"))
    assert "found there" not in petl.fit(model, "pets.csv", **given).features
    assert sum(map(sum, petl.evaluate(model, "pets.csv", progress=False).confusion)) == 2
    pairs = [("im/0.png", "b"), ("im/1.png", "b")]
    assert [sum(row) for row in petl.evaluate(model, pairs, progress=False).confusion] == [0, 2]


def test_statistics_of_a_table(tmp_path: Path) -> None:
    file = csv_of(tmp_path, "path,label", ["a", "b", "a"])
    assert data.statistics(file) == data.statistics(read(file))


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    images(tmp_path, 2, "cats.csv")
    images(tmp_path, 2, "dogs")
    assert read(tmp_path).classes == ["cats.csv", "dogs"]
    with pytest.raises(DataError, match="a folder or tar has no option 'label'"):
        read(tmp_path, label="x")
    with pytest.raises(DataError, match=r"no such folder or file: .*pets\.csv"):
        read(tmp_path / "pets.csv")


def test_json_keeps_numbers_and_names_apart(tmp_path: Path) -> None:
    files = images(tmp_path, 2)
    rows = [{"path": files[0], "label": 2}, {"path": files[1], "label": 10}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read(tmp_path / "a.jsonl").classes == ["2", "10"]
