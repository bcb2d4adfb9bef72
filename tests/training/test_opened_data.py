"""A table's own targets decide the objective where none is named, and name the outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest
from PIL import Image
from torch.utils.data import Subset

import petl
from tests.support.tables_of_targets import ages, model_of, part

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
QUIET: dict[str, Any] = {"epochs": 1, "lr": 1e-3, "progress": False}


def wrapped(table: Path, split: str) -> Any:
    whole = part(table, split, labels="tags")
    return Subset(whole, range(len(whole)))


def from_frame(table: Path, split: str) -> Any:
    frame = pandas.read_csv(table).assign(path=lambda rows: [str(table.parent / name) for name in rows["path"]])
    return petl.data.dataset(frame, petl.data.pipeline(model_of(1), size=32), split=split, targets=["age"])


def from_hub(table: Path, split: str) -> Any:
    rows = pandas.read_csv(table)
    rows = rows[rows["split"] == split]
    tags = [[k for k, name in enumerate(("bright", "red")) if name in cell] for cell in rows["tags"]]
    features = datasets.Features(
        {"image": datasets.Image(), "tags": datasets.Sequence(datasets.ClassLabel(names=["bright", "red"]))}
    )
    images = [Image.open(table.parent / name) for name in rows["path"]]
    return datasets.Dataset.from_dict({"image": images, "tags": tags}, features=features)


SOURCES: list[tuple[Callable[[Path, str], Any], str, list[str]]] = [
    (lambda table, split: part(table, split, targets=["age"]), "regression", ["age"]),
    (lambda table, split: part(table, split, targets=["age", "weight_kg"]), "regression", ["age", "weight_kg"]),
    (wrapped, "multilabel", ["bright", "red"]),
    (from_frame, "regression", ["age"]),
    (from_hub, "multilabel", ["bright", "red"]),
]


@pytest.mark.sweep(2)
@pytest.mark.parametrize(("source", "task", "names"), SOURCES)
def test_the_data_says_the_task(source: Any, task: str, names: list[str], tmp_path: Path) -> None:
    table, model, out = ages(tmp_path), model_of(len(names)), tmp_path / "d.safetensors"
    history = petl.fit(model, source(table, "train"), source(table, "val"), out=out, **QUIET)
    assert history.monitor == ("r2" if task == "regression" else "average_precision")
    header = petl.read(out)
    assert (header["task"], header["labels"]) == (task, names)
    found = petl.evaluate(model, source(table, "val"), progress=False)
    assert found.row["loss"] == pytest.approx(history.rows[-1]["loss"], rel=1e-4)
    bare = petl.unwrap(model)
    bare.reset_classifier(len(names))
    assert type(petl.evaluate(bare, source(table, "val"), progress=False)) is type(found)
    loaded = petl.load(out, petl.unwrap(model_of(1)))
    assert petl.evaluate(loaded, source(table, "val"), progress=False).row == found.row


@pytest.mark.parametrize(
    ("options", "outputs", "more", "said"),
    [
        ({"targets": ["age"]}, 3, {}, r"numbers \(age\) for a model of 3 outputs; wrap it with num_classes=1"),
        ({"targets": ["age", "weight_kg"]}, 1, {}, "num_classes=2"),
        ({"labels": "tags"}, 3, {}, r"2 labels \(bright, red\)"),
        ({"targets": ["age"]}, 1, {"monitor": "accuracy"}, r"expected one of loss, .*\(regression\)"),
        ({"targets": ["age"]}, 1, {"mixup": 0.2}, "mixup= is for a classification"),
        ({"labels": "tags"}, 2, {"class_weights": "balanced"}, "pos_weight"),
        ({"targets": ["age"]}, 1, {"monitor": "acuracy"}, "near"),
        ({"label": "grade"}, 3, {"objective": "regression"}, "no quantities"),
    ],
)
def test_what_does_not_fit_is_one_error(options: Any, outputs: int, more: Any, said: str, tmp_path: Path) -> None:
    table = ages(tmp_path)
    with pytest.raises(petl.PetlError, match=said):
        petl.fit(model_of(outputs), part(table, "train", **options), part(table, "val", **options), **QUIET, **more)


def test_a_model_keeps_to_what_it_was_trained_for(tmp_path: Path) -> None:
    table, model = ages(tmp_path), model_of(2)
    petl.fit(model, part(table, "train", targets=["age", "weight_kg"]), **QUIET)
    with pytest.raises(petl.DataError, match=r"'regression'.*several labels.*objective='multilabel'"):
        petl.evaluate(model, part(table, "val", labels="tags"))
    with pytest.raises(petl.DataError, match="in the same order: targets="):
        petl.evaluate(model, part(table, "val", targets=["weight_kg", "age"]))
    levels = model_of(3)
    petl.fit(levels, part(table, "train", label="grade"), objective="ordinal", **QUIET)
    assert "quadratic_kappa" in petl.evaluate(levels, part(table, "val", label="grade")).row


def test_a_loss_of_ones_own_has_outputs_of_its_own(tmp_path: Path) -> None:
    train = part(ages(tmp_path), "train", targets=["age"])
    model = model_of(5)
    petl.fit(model, train, objective=lambda outputs, targets: (outputs.mean(1) - targets).square().mean(), **QUIET)
    assert petl.record(model).labels is None
