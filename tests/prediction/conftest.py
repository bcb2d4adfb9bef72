"""A model whose answer depends on the image's brightness, and folders of images for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import petl


@pytest.fixture
def model() -> nn.Module:
    """A bare test_resnet of three classes, with images of 32 pixels."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3).eval()
    torch.nn.init.normal_(model.fc.weight)
    return model


@pytest.fixture
def pipeline(model: nn.Module) -> dict[str, object]:
    return petl.data.pipeline(model, size=32)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten images, 1.png to 10.png, in two folders; the same name in both, a note, a hidden file, and two that can't be read."""
    noise = np.random.default_rng(0)
    for number in range(10):
        place = tmp_path / "pictures" / ("a" if number < 5 else "b") / f"{number % 5 + 6}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(place)
    (tmp_path / "pictures" / "notes.txt").write_text("no image")
    (tmp_path / "pictures" / ".hidden.png").write_bytes(b"")
    (tmp_path / "pictures" / "a" / "7.5.png").write_bytes(b"")
    (tmp_path / "pictures" / "b" / "cut.png").write_bytes((tmp_path / "pictures" / "b" / "6.png").read_bytes()[:500])
    return tmp_path / "pictures"


NAMES = [f"{folder}/{number}.png" for folder in "ab" for number in range(6, 11)]
