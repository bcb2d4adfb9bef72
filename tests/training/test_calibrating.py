"""`evaluate(calibrate=True)`: the temperature is kept, and `predict` answers with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.utils.data import TensorDataset

import petl

COUNT = 60


def data() -> TensorDataset:
    images = torch.randn(COUNT, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return TensorDataset(images, torch.arange(COUNT) % 3)


def sure() -> nn.Module:
    torch.manual_seed(0)
    model = petl.wrap(timm.create_model("test_resnet"), "probe", num_classes=3)
    with torch.no_grad():
        model.fc.weight.copy_(5 * torch.randn(model.fc.weight.shape))
    return model


@pytest.mark.parametrize("wish", [True, "temperature"])
@pytest.mark.sweep(1)
def test_confidences_change_and_labels_do_not(wish: Any, tmp_path: Path) -> None:
    model, images = sure(), data()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plain, first = petl.evaluate(model, images, progress=False), petl.predict(model, images.tensors[0], progress=False)
    measured: Any = petl.evaluate(model, images, calibrate=wish, progress=False)
    found = measured.calibration
    assert found.temperature > 1 and found.after.value < found.before.value and found.images == COUNT
    assert "calibration error" in str(measured) and measured.compare(plain).tie
    assert measured.accuracy == plain.accuracy and measured.loss == plain.loss and plain.calibration is None  # type: ignore[attr-defined]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    second = petl.predict(model, images.tensors[0], progress=False)
    assert [row["label"] for row in second] == [row["label"] for row in first]
    scores = petl.features(model, images, head=False, progress=False).x
    wanted = (scores.double() / found.temperature).softmax(1)
    assert torch.allclose(torch.from_numpy(second.probabilities).double(), wanted, atol=1e-6)
    path = petl.save(model, tmp_path / "d.safetensors")
    assert petl.read(path)["temperature"] == found.temperature
    torch.manual_seed(0)
    loaded = petl.load(path, timm.create_model("test_resnet"))
    again = petl.predict(loaded, images.tensors[0], progress=False)
    assert (again.probabilities == second.probabilities).all()


def test_a_plain_model_is_measured_too() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    assert petl.evaluate(model, data(), calibrate=True, progress=False).calibration.temperature > 0


def test_what_cannot_be_calibrated() -> None:
    few = TensorDataset(*(column[:10] for column in data().tensors))
    numbers = TensorDataset(data().tensors[0], torch.rand(COUNT, 3))
    for model, images, wish, said in (
        (sure(), few, True, "20 or more"),
        (sure(), data(), "isotonic", "expected True"),
        (sure(), data(), 1, "expected True"),
        (sure(), numbers, True, "class numbers"),
    ):
        with pytest.raises(petl.PetlError, match=said):
            petl.evaluate(model, images, calibrate=wish, progress=False)  # type: ignore[arg-type]
        assert petl.record(model).temperature is None  # type: ignore[union-attr]
