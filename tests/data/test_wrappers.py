"""Parts of petl's datasets keep class names, numbers and the input pipeline, however they are wrapped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset, random_split

import petl
from petl.data.class_labels import dataset_classes, dataset_targets
from petl.data.wrappers import pipeline_of
from petl.errors import DataError

PIPELINE = {
    "input_size": (3, 32, 32),
    "interpolation": "bilinear",
    "mean": (0.1, 0.2, 0.3),
    "std": (0.5,) * 3,
    "crop_pct": 1.0,
}
PIPELINE["crop_mode"] = "center"


@pytest.fixture
def whole(tmp_path: Path) -> petl.data.Images:
    """Nine images of three classes, three each."""
    for number in range(9):
        place = tmp_path / "pets" / ("cat", "dog", "eel")[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (20 * number, 0, 0)).save(place / f"{number}.png")
    made = petl.data.dataset(tmp_path / "pets", PIPELINE, training=True)
    assert isinstance(made, petl.data.Images)
    return made


def wrapped(kind: str, whole: petl.data.Images) -> Any:
    """The dataset in one of torch's wrappers, or in several."""
    first = Subset(whole, [8, 0, 3, 4])
    return {
        "plain": whole,
        "Subset": first,
        "Subset of a Subset": Subset(first, [0, 3, 1]),
        "random_split": random_split(whole, [0.5, 0.5], torch.Generator().manual_seed(0))[0],
        "ConcatDataset": ConcatDataset([first, whole]),
        "Subset of a ConcatDataset": Subset(ConcatDataset([whole, first, Subset(whole, [5])]), [0, 10, 13, 4, 9]),
        "array of indices": Subset(whole, np.array([1, 4, 8])),  # type: ignore[arg-type]  # as scikit-learn's k-fold gives
        "tensor of indices": Subset(whole, torch.tensor([1, 4, 8])),  # type: ignore[arg-type]
        "holdout": petl.data.holdout(whole, 0.34)[0],
        "DataLoader": DataLoader(ConcatDataset([Subset(first, [0, 1, 3]), whole]), batch_size=4),
    }[kind]


KINDS = [
    *("plain", "Subset", "Subset of a Subset", "random_split", "ConcatDataset", "Subset of a ConcatDataset"),
    *("array of indices", "tensor of indices", "holdout", "DataLoader"),
]


@pytest.mark.sweep(4)
@pytest.mark.parametrize("kind", KINDS)
def test_the_delta_knows_classes_and_pipeline(kind: str, whole: petl.data.Images, tmp_path: Path) -> None:
    """k-fold is the usual case."""
    torch.manual_seed(0)
    model = petl.wrap(timm.create_model("test_resnet"), "probe", num_classes=3)
    part = wrapped(kind, whole)
    petl.fit(model, part, part, epochs=1, lr=1e-3, batch_size=4, out=tmp_path / "a.safetensors", progress=False)
    header = petl.read(tmp_path / "a.safetensors")
    assert header["labels"] == ["cat", "dog", "eel"]
    assert header["pipeline"]["mean"] == [0.1, 0.2, 0.3]
    assert header["pipeline"]["input_size"] == [3, 32, 32]
    assert petl.data.pipeline(model)["mean"] == (0.1, 0.2, 0.3)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "DataLoader"])
def test_numbers_are_those_of_the_items(kind: str, whole: petl.data.Images) -> None:
    part = wrapped(kind, whole)
    numbers = dataset_targets(part)
    assert numbers is not None
    assert numbers.tolist() == [target for _, target in part]


def test_balanced_weights_of_a_part_need_no_reading(whole: petl.data.Images, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Subset(ConcatDataset([whole, whole]), [0, 1, 9, 12])
    monkeypatch.setattr(petl.data.Images, "__getitem__", lambda *_: pytest.fail("read"))
    assert dataset_targets(part).tolist() == [0, 0, 0, 1]  # type: ignore[union-attr]


def test_parts_that_number_their_classes_differently_are_refused(whole: petl.data.Images, tmp_path: Path) -> None:
    for name in ("ant", "dog"):
        (tmp_path / "more" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "more" / name / "1.png")
    more = petl.data.dataset(tmp_path / "more", PIPELINE)
    both = ConcatDataset([whole, more])
    model = petl.wrap(timm.create_model("test_resnet"), "probe", num_classes=3)
    with pytest.raises(
        DataError, match=r"class numbers mean \(cat, dog, eel\) in one part and \(ant, dog\) in another"
    ):
        petl.fit(model, both, epochs=1, lr=1e-3, progress=False)
    other = petl.data.dataset(tmp_path / "pets", {**PIPELINE, "mean": (0.5,) * 3})
    with pytest.raises(DataError, match=r"parts of a ConcatDataset have different input pipelines \(mean\)"):
        pipeline_of(ConcatDataset([whole, other]))


def test_numbers_that_mean_other_classes_than_the_models_are_refused(whole: petl.data.Images, tmp_path: Path) -> None:
    """A validation folder without one of the classes numbers the rest from 0."""
    for name in ("dog", "eel"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "val" / name / "1.png")
    model = petl.wrap(timm.create_model("test_resnet"), "probe", num_classes=3)
    petl.record(model).labels = whole.classes
    val = petl.data.dataset(tmp_path / "val", PIPELINE)
    for call in (
        lambda: petl.evaluate(model, Subset(val, [0, 1])),
        lambda: petl.fit(model, whole, val, epochs=1, lr=1e-3),
    ):
        with pytest.raises(DataError, match="class 'dog' has number 0 in the data and 1 in the model"):
            call()
    right = petl.data.dataset(tmp_path / "val", PIPELINE, classes=petl.record(model).labels)
    assert sum(map(sum, petl.evaluate(model, right, progress=False).confusion)) == 2


class Foreign(Dataset[Any]):
    """Another library's dataset, whose attributes of these names mean something else."""

    classes: Any = 3
    pipeline: Any = ("shards", "decode")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return torch.randn(3, 32, 32), index % 3


@pytest.mark.parametrize("classes", [3, "cat", None, len, [], torch.arange(3)])
def test_attributes_of_others_are_not_taken_for_petls(classes: Any, tmp_path: Path) -> None:
    data = Foreign()
    data.classes = classes
    assert dataset_classes(data) is None
    assert pipeline_of(Subset(data, [0, 1])) is None
    model = petl.wrap(timm.create_model("test_resnet"), "probe", num_classes=3)
    petl.fit(model, data, epochs=1, lr=1e-3, progress=False)
    header = petl.read(petl.save(model, tmp_path / "a.safetensors"))
    assert header["labels"] is None


def test_names_of_other_datasets() -> None:
    pairs = TensorDataset(torch.zeros(3, 1), torch.arange(3))
    assert dataset_classes(Subset(pairs, [0])) is None and dataset_targets(pairs) is None
    pairs.classes = [("tench", "Tinca tinca"), "shark", 3]  # type: ignore[attr-defined]  # as torchvision's ImageNet
    assert dataset_classes(Subset(ConcatDataset([pairs]), [0])) == ["tench", "shark", "3"]
