"""`petl.features` of tables: every kind of target, splits, tables of paths alone, and what makes a kept pass another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import petl
from tests.support.tables_of_targets import ages, part

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=2).eval()


def features(model: nn.Module, data: Any, **options: Any) -> Any:
    return petl.features(model, data, progress=False, **options)


def frame_of(table: Path) -> Any:
    return pandas.read_csv(table).assign(path=lambda rows: [str(table.parent / name) for name in rows["path"]])


def hub(table: Path, **more: Any) -> Any:
    images = [Image.open(path) for path in frame_of(table)["path"][:3]]
    kinds = {
        "img": datasets.Image(),
        **({"tags": datasets.Sequence(datasets.ClassLabel(names=["z", "a", "m"]))} if more else {}),
    }
    return datasets.Dataset.from_dict({"img": images, **more}, features=datasets.Features(kinds))


def test_targets_stay_what_they_are(model: nn.Module, tmp_path: Path) -> None:
    table = ages(tmp_path)
    found = features(model, part(table, "train", targets=["age"]))
    assert found.y.dtype == torch.float32 and found.y.tolist() == pytest.approx(
        frame_of(table).query("split == 'train'").age
    )
    both = features(model, part(table, "train", targets=["weight_kg", "age"]))
    assert both.classes == ["weight_kg", "age"] and torch.equal(both.y[:, 1], found.y) and torch.equal(both.x, found.x)
    tags = features(model, part(table, "train", labels=["red", "bright"]))
    assert (
        tags.classes == ["red", "bright"]
        and tags.y.tolist() == frame_of(table).query("split == 'train'")[["red", "bright"]].to_numpy().tolist()
    )
    assert features(model, part(table, "train", label="grade")).classes == ["0", "1", "2"]
    listed = features(model, hub(table, tags=[[0], [], [0, 2]]))
    assert listed.classes == ["z", "a", "m"] and listed.y.tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 1]]


@pytest.mark.sweep(1)
@pytest.mark.parametrize("source", [lambda table: table, str, frame_of])
def test_splits_of_tables(source: Callable[[Path], Any], model: nn.Module, tmp_path: Path) -> None:
    data = source(ages(tmp_path))
    counts = [len(features(model, data, split=split).x) for split in ("train", "val", ".", None)]
    assert counts == [8, 4, 12, 4]
    with pytest.raises(petl.DataError, match="no rows of split 'test'"):
        features(model, data, split="test")


def test_tables_of_paths_have_no_labels(model: nn.Module, tmp_path: Path) -> None:
    frame = frame_of(ages(tmp_path))
    frame[["path"]].to_csv(tmp_path / "only.csv", index=False)
    splits = datasets.DatasetDict({"train": hub(tmp_path / "ages.csv"), "validation": hub(tmp_path / "ages.csv")})
    sources = [(tmp_path / "only.csv", 12), (frame[["path"]], 12), (frame[["path", "split"]], 4), (splits, 3)]
    for data, count in [*sources, (splits["train"], 3)]:
        found = features(model, data)
        assert (found.y, found.classes, len(found.x)) == (None, [], count)
    assert len(features(model, frame[["path", "split"]], split="train").x) == 8
    with pytest.raises(petl.DataError, match="no column for the label"):  # age may be it, or not
        features(model, frame[["path", "age"]])


def darker(by: int) -> Callable[[Any], Any]:
    return lambda image: image.point(lambda value: max(0, value - by))


def test_only_the_transform_changes(model: nn.Module, tmp_path: Path) -> None:
    table = ages(tmp_path)

    def x(transform: Any = None, split: str = "train") -> torch.Tensor:
        return features(model, part(table, split, label="grade", transform=transform)).x

    found = [x(), x(darker(10)), x(darker(90)), x(lambda image: image.rotate(180))]
    assert all(not torch.equal(one, other) for i, one in enumerate(found) for other in found[:i])
    assert torch.equal(x(), found[0]) and torch.equal(x(darker(90)), found[2])


def test_only_the_targets_change(model: nn.Module, tmp_path: Path) -> None:
    table = ages(tmp_path)
    kinds: list[dict[str, Any]] = [
        {"targets": ["age"]},
        {"targets": ["weight_kg"]},
        {"label": "grade"},
        {"labels": "tags"},
    ]
    for options in kinds * 2:
        data = part(table, "train", **options)
        assert torch.equal(features(model, data).y, torch.as_tensor(data.targets))
    lines = table.read_text().splitlines()
    for column, value in (("age", "99.0"), ("grade", "2"), ("tags", "[]")):
        place = lines[0].split(",").index(column)
        cells = lines[1].split(",")
        lines[1] = ",".join([*cells[:place], value, *cells[place + 1 :]])
        table.write_text("\n".join(lines) + "\n")
        options = {"targets": ["age"]} if column == "age" else {"label" if column == "grade" else "labels": column}
        data = part(table, "train", **options)
        found = features(model, data)
        assert torch.equal(found.y, torch.as_tensor(data.targets)), column
