"""Datasets of others whose items hold PIL images."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch.utils.data import Dataset, IterableDataset

import petl
from petl import data
from petl.data.inputs import as_loader
from tests.support.image_files import picture

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


class Pictures(Dataset):
    """Items as they are in other libraries' datasets without a transform."""

    classes = ("a", "b")

    def __init__(self, kind: str):
        self.kind = kind

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        if index >= 6:
            raise IndexError(index)
        image, label = picture(index, 40), index % 2
        if self.kind == "pairs":
            return image, label
        return (
            {"file": f"{index}.png", "image": image, "label": label}
            if self.kind == "dicts"
            else {"a": image, "b": label}
        )


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(Pictures("dicts")[i] for i in range(6))


@pytest.mark.parametrize(
    ("source", "keys"),
    [(Pictures("pairs"), None), (Pictures("dicts"), None), (Pictures("odd"), ("a", "b")), (Stream(), None)],
    ids=["pairs", "dicts", "dicts with keys", "a stream"],
)
@pytest.mark.sweep(2)
def test_they_go_through_the_models_pipeline(source: Any, keys: Any) -> None:
    torch.manual_seed(0)
    model = petl.wrap(timm.create_model("test_resnet"), "probe", num_classes=2)
    pairs = [(picture(i, 40), "ab"[i % 2]) for i in range(6)]
    expected = data.dataset(pairs, data.pipeline(model))
    ((images, targets),) = as_loader(source, model, keys=keys, batch_size=6)
    assert torch.equal(images, torch.stack([image for image, _ in expected])) and targets.tolist() == [0, 1] * 3
    measured = petl.evaluate(model, source, keys=keys, progress=False)
    assert measured.loss == pytest.approx(petl.evaluate(model, pairs, progress=False).loss)
    if isinstance(source, Pictures):
        petl.fit(model, source, source, keys=keys, epochs=1, lr=1e-3, progress=False)
        assert petl.record(model).labels == ["a", "b"]  # type: ignore[union-attr]  # wrapped


def test_training_images_are_augmented_and_held_out_ones_are_not() -> None:
    model = timm.create_model("test_resnet", num_classes=2)
    train, val = data.holdout(Pictures("pairs"), 0.34)
    loader = as_loader(train, model, training=True, batch_size=4)
    one, again = (next(iter(loader))[0] for _ in range(2))
    assert torch.equal(one, again)  # by seed and epoch
    data.set_epoch(loader, 1)  # type: ignore[arg-type]  # a DataLoader
    assert not torch.equal(one.sum(0), next(iter(loader))[0].sum(0))
    same = [next(iter(as_loader(val, model, batch_size=2)))[0] for _ in range(2)]
    assert torch.equal(*same)
