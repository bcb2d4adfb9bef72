"""`fit` as it is called: data, models and folders that it takes, and those that it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import petl
from petl.errors import DataError, StateError
from petl.training.evaluation import evaluate
from petl.training.fit import fit
from tests.support.compare import gap, state
from tests.support.data import SIZE, pairs
from tests.support.training import adapted

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


# What can't be


class Mapping(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"photo": torch.zeros(3, SIZE, SIZE), "answer": 0}


IMAGES, TARGETS = pairs(8).tensors
BAD_DATA: list[Any] = [
    (lambda: TensorDataset(IMAGES[:0], TARGETS[:0]), "dataset is empty"),
    (lambda: DataLoader(pairs(8), batch_size=9, drop_last=True), "gives no batch"),
    (lambda: TensorDataset(IMAGES, TARGETS + 1), "label 3 for a model of 3 classes"),
    (lambda: TensorDataset(IMAGES, TARGETS - 1), "label -1 for a model of 3 classes"),
    (lambda: TensorDataset(IMAGES[:, :1], TARGETS), "have 1 channels, the model takes 3"),
    (lambda: TensorDataset(IMAGES.byte(), TARGETS), "can't take images of shape .*uint8"),
    (lambda: TensorDataset(IMAGES[..., :50], TARGETS), r"can't take images of shape \(1, 3, 64, 50\)"),
    (lambda: TensorDataset(IMAGES, TARGETS.float()), "expected class numbers"),
    (lambda: TensorDataset(IMAGES, F.one_hot(TARGETS)), "expected class numbers"),
    (lambda: TensorDataset(IMAGES), "expected pairs"),
    (Mapping, "batch of type dict"),
    (lambda: 5, "got data of type int"),
    (lambda: "no/such/folder", "no such folder"),
]


@pytest.mark.parametrize(("data", "message"), BAD_DATA, ids=[message for _, message in BAD_DATA])
@pytest.mark.sweep(6)
def test_bad_data_is_one_clear_error(data: Callable[[], Any], message: str) -> None:
    model = adapted("lora", "test_vit")
    before = state(model)
    with pytest.raises(DataError, match=message):
        fit(model, data(), epochs=1, lr=1e-2, batch_size=8)
    with pytest.raises(DataError, match=message):
        evaluate(model, data())
    with pytest.raises(DataError, match=message):
        fit(model, pairs(8), data(), epochs=1, lr=1e-12, batch_size=8, schedule="none", weight_decay=0.0)
    assert gap(state(model), before) < 1e-9


def test_a_model_that_cannot_be_trained() -> None:
    plain = timm.create_model("test_resnet", num_classes=3)
    with pytest.raises(StateError, match="not wrapped"):
        fit(plain, pairs(8), epochs=1, lr=1e-3, out="x.safetensors")
    with pytest.raises(StateError, match=r"no parameter of this .* trains"):
        fit(plain.requires_grad_(False), pairs(8), epochs=1, lr=1e-3)
    with pytest.raises(DataError, match="a model with a classifier"):
        evaluate(nn.Identity(), pairs(8))


# Folders


def test_folders_bring_labels_and_pipeline(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 3)):
        for number, name in enumerate(("ant", "bee", "cow")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (70, 70), (80 * number + i, 200 - 80 * number, 30)).save(folder / f"{i}.png")
    model, path = adapted("bn"), tmp_path / "insects.safetensors"
    history = fit(model, tmp_path, tmp_path, epochs=3, lr=1e-2, batch_size=6, out=path)
    header = petl.read(path)
    assert header["labels"] == ["ant", "bee", "cow"]
    assert header["pipeline"]["input_size"] == list(petl.data.pipeline(model)["input_size"])
    assert history.best["accuracy"] > 0.6
    found = evaluate(model, tmp_path / "val")
    assert [row.label for row in found.classes] == ["ant", "bee", "cow"]
    assert [row.images for row in found.classes] == [3, 3, 3]
    assert evaluate(model, tmp_path).confusion == found.confusion
