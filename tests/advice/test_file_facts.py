"""What files say of themselves: sizes, bits and channels of many formats, and fingerprints of their bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from PIL import Image

import petl
from petl.advice.file_facts import file_facts
from petl.advice.opened import ImagePart

PIPELINE = petl.data.pipeline(timm.create_model("test_resnet"))


def save(folder: Path, name: str, pixels: np.ndarray, **options: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith(".npy"):
        np.save(folder / name, pixels)
    elif name.endswith(".tif"):
        pytest.importorskip("tifffile").imwrite(folder / name, pixels, **options)
    else:
        Image.fromarray(pixels).save(folder / name, **options)


@pytest.mark.parametrize(
    ("name", "pixels", "bits", "channels", "clear"),
    [
        ("a.png", np.zeros((20, 30), np.uint8), "8", "1", 0),
        ("a.png", np.zeros((20, 30), np.uint16), "16", "1", 0),
        ("a.png", np.zeros((20, 30), bool), "1", "1", 0),
        ("a.png", np.zeros((20, 30, 4), np.uint8), "8", "3", 1),
        ("a.jpg", np.zeros((20, 30, 3), np.uint8), "8", "3", 0),
        ("a.npy", np.zeros((5, 20, 30), np.float32), "32", "5", 0),
        ("a.npy", np.zeros((20, 30), np.uint8), "8", "1", 0),
        ("a.tif", np.zeros((20, 30, 3), np.uint16), "16", "3", 0),
    ],
)
def test_sizes_bits_and_channels(
    tmp_path: Path, name: str, pixels: np.ndarray, bits: str, channels: str, clear: int
) -> None:
    save(tmp_path / "one", name, pixels)
    save(tmp_path / "two", name, pixels)
    dataset = petl.data.dataset(tmp_path, PIPELINE, split=".")
    facts, prints = file_facts(ImagePart("train", dataset, dataset, [0, 1]))
    assert (facts.files, facts.bits, facts.channels, facts.transparent) == (2, {bits: 2}, {channels: 2}, 2 * clear)
    assert (facts.width.least, facts.height.most) == (30, 20)
    assert prints[0] == prints[1] is not None


def test_a_broken_file_is_told_with_the_reason(tmp_path: Path) -> None:
    save(tmp_path / "one", "a.png", np.zeros((4, 4), np.uint8))
    save(tmp_path / "two", "a.png", np.ones((4, 4), np.uint8))
    (tmp_path / "two" / "b.png").write_bytes(b"")
    dataset = petl.data.dataset(tmp_path, PIPELINE, split=".")
    facts, prints = file_facts(ImagePart("train", dataset, dataset, [0, 1, 2]))
    assert [Path(file).name for file in facts.unreadable] == ["b.png"] and all(facts.unreadable.values())
    assert facts.files == 2 and len({*prints}) == 3
