"""Datasets that are read once more with another pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, TensorDataset

import petl
from petl.data.reopened import reopened
from tests.support.folders import PIPELINE

LARGE = {**PIPELINE, "input_size": (3, 16, 16)}


def folder(root: Path) -> Path:
    for number, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for seed in range(3):
            Image.fromarray(np.full((20, 20, 3), 40 * seed + number, np.uint8)).save(root / name / f"{seed}.png")
    return root


def test_petls_own_in_any_wrapper(tmp_path: Path) -> None:
    images = petl.data.dataset(folder(tmp_path / "pets"), {**PIPELINE, "frame": "middle"}, training=True)
    nested = Subset(ConcatDataset([images, Subset(images, [0, 5])]), [1, 7])
    again = reopened(nested, LARGE)
    assert again[0][0].shape == (3, 16, 16) and [again[0][1], again[1][1]] == [0, 1]
    assert torch.equal(again[0][0], reopened(images, LARGE)[1][0])  # the evaluation crop, without chance
    assert images[0][0].shape == (3, 8, 8) and images.training
    assert reopened(images, LARGE).pipeline["frame"] == "middle"


def test_pil_images_and_what_is_transformed() -> None:
    pairs = [(Image.new("RGB", (30, 20)), 0), (Image.new("RGB", (30, 20)), 1)]
    assert reopened(pairs, LARGE)[1][0].shape == (3, 16, 16)
    dicts = [{"image": image, "label": label} for image, label in pairs]
    assert reopened(dicts, LARGE, ("image", "label"))[0][0].shape == (3, 16, 16)
    assert reopened(TensorDataset(torch.zeros(2, 3, 8, 8), torch.arange(2)), LARGE) is None
