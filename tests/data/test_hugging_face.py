"""Datasets of Hugging Face's library, given as they are."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import petl
from petl import data
from petl.errors import DataError
from tests.support.data import plain
from tests.support.table_files import images

hub = pytest.importorskip("datasets")
pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """make(label=(values, feature), ...) gives a dataset of images with these columns."""
    files = [str(tmp_path / file) for file in images(tmp_path, 6)]

    def dataset(image: Any = None, name: str = "image", **columns: tuple[list[Any], Any]) -> Any:
        features = {name: image or hub.Image(), **{key: feature for key, (_, feature) in columns.items()}}
        values = {name: files, **{key: cells for key, (cells, _) in columns.items()}}
        return hub.Dataset.from_dict(values, features=hub.Features(features))

    return dataset


def trained(train: Any, val: Any = None, **options: Any) -> list[str] | None:
    torch.manual_seed(0)
    model = petl.wrap(timm.create_model("test_resnet"), "probe", num_classes=2)
    petl.fit(model, train, val, epochs=1, lr=1e-3, progress=False, **options)
    return petl.record(model).labels  # type: ignore[union-attr]  # wrapped


NUMBERS = [0, 1, 0, 1, 0, 1]


def test_a_dataset_is_read_through_the_models_pipeline(make: Any, tmp_path: Path) -> None:
    names = hub.ClassLabel(names=["dog", "cat"])
    base = make(label=(NUMBERS, names))
    found = data.dataset(base, plain(3))
    file = data.image(tmp_path / "im" / "1.png", plain(3))
    assert found.classes == ["dog", "cat"] and torch.equal(found[1][0], file) and found[1][1] == 1
    for other in (make(image=hub.Image(decode=False), label=(NUMBERS, names)), base.with_format("torch")):
        assert torch.equal(data.dataset(other, plain(3))[1][0], file)
    assert pickle.loads(pickle.dumps(found)).targets.tolist() == NUMBERS
    assert trained(base) == ["dog", "cat"]
    assert trained(base.rename_columns({"image": "photo", "label": "species"})) == ["dog", "cat"]


def test_splits_of_a_dict(make: Any) -> None:
    base = make(label=(NUMBERS, hub.ClassLabel(names=["dog", "cat"])))
    both = hub.DatasetDict(train=base.select(range(4)), validation=base.select([4, 5]))
    assert len(data.dataset(both, plain(3))) == 4 and len(data.dataset(both, plain(3), split="val")) == 2
    assert trained(both, both) == ["dog", "cat"]
    model = petl.wrap(timm.create_model("test_resnet"), "probe", num_classes=2)
    assert sum(map(sum, petl.evaluate(model, both, progress=False).confusion)) == 2
    with pytest.raises(DataError, match=r"no split 'test'; its splits are train, validation"):
        data.dataset(both, plain(3), split="test")


def test_other_targets(make: Any) -> None:
    texts = make(label=(["b", "a"] * 3, hub.Value("string")))
    assert data.dataset(texts, plain(3)).classes == ["a", "b"]
    ages = make(age=([1.5] * 6, hub.Value("float32")))
    assert data.dataset(ages, plain(3), targets="age")[0][1].item() == 1.5
    tags = make(tags=([[0], [0, 1], []] * 2, hub.Sequence(hub.ClassLabel(names=["x", "y"]))))
    assert data.dataset(tags, plain(3)).targets[:3].tolist() == [[1, 0], [1, 1], [0, 0]]


def test_several_columns_need_a_word(make: Any) -> None:
    names = hub.ClassLabel(names=["dog", "cat"])
    two = make(name="img", fine=(NUMBERS, names), coarse=(NUMBERS, names))
    with pytest.raises(DataError, match=r"2 columns of ClassLabel \(fine, coarse\); say which: label="):
        trained(two)
    assert trained(two, keys=("img", "fine")) == data.dataset(two, plain(3), label="fine").classes == ["dog", "cat"]


def test_unknown_labels_are_refused(make: Any) -> None:
    with pytest.raises(DataError, match="1 of 6 rows have no label in 'label', the first is row 1"):
        trained(make(label=([-1, *NUMBERS[1:]], hub.ClassLabel(names=["dog", "cat"]))))


def test_a_transform_of_ones_own_is_kept(make: Any) -> None:
    """Its items are dicts of tensors, whose usual names are found."""
    base = make(label=(NUMBERS, hub.ClassLabel(names=["dog", "cat"])))
    own = base.with_transform(
        lambda rows: {"pixel_values": [torch.zeros(3, 64, 64)] * len(rows["image"]), "label": rows["label"]}
    )
    assert trained(own) is None
