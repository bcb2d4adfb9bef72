"""The accuracy that a training with petl's best recipe reaches with a backbone: what a ranking of backbones has to foretell."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

import petl
from benchmarks.transfer.data import Pictures
from petl.data.reopened import reopened

CROP = {"crop_pct": 1.0}  # small pictures have no rim to spare


class Photos(Dataset[Any]):
    """Some of the pictures as PIL images, which each backbone reads in its own way."""

    def __init__(self, source: Pictures, split: int, count: int, seed: int) -> None:
        chosen = source.chosen(split, count, seed)
        self.images, self.targets, self.classes = source.images[chosen], source.labels[chosen], list(source.classes)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        pixels = self.images[index]
        photo = Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))
        return photo, int(self.targets[index])


class Kept:
    """Results by what they are of, as lines of a file: nothing that is there is computed again."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def find(self, of: Mapping[str, Any]) -> dict[str, Any] | None:
        lines = self.path.read_text().splitlines() if self.path and self.path.exists() else []
        return next((one["found"] for one in map(json.loads, lines) if one["of"] == of), None)

    def add(self, of: Mapping[str, Any], found: dict[str, Any]) -> dict[str, Any]:
        if self.path:
            with self.path.open("a") as file:
                file.write(json.dumps({"of": of, "found": found}) + "\n")
        return found


def trained(model: nn.Module, train: Photos, test: Photos, size: int, epochs: int | None, seed: int) -> dict[str, Any]:
    """Which test images are right, [m] zeros and ones, after a training with the best recipe; and its seconds and epochs."""
    torch.manual_seed(seed)
    petl.wrap(model, num_classes=len(train.classes))
    record: Any = petl.record(model)
    fixed = "patch14" in str(record.backbone["name"])
    record.pipeline = petl.data.pipeline(model, size=None if fixed else size, **CROP)
    start = time.process_time()
    history = petl.fit(model, train, epochs=epochs, seed=seed, progress=False)
    return {
        "right": right_ones(model, test, record.pipeline),
        "loss": history.rows[-1].get("loss", history.rows[-1].get("train_loss")),
        "epochs": history.epochs,
        "seconds": time.process_time() - start,
    }


def right_ones(model: nn.Module, test: Photos, pipeline: Mapping[str, Any]) -> list[int]:
    found: list[int] = []
    read: Any = reopened(test, pipeline)
    with torch.inference_mode():
        for images, labels in DataLoader(read, batch_size=64):
            found += (model(images).argmax(1) == labels).int().tolist()
    return found
