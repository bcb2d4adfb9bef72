"""A table of images with every kind of target: numbers, several labels, levels, and splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image

import petl
from tests.support.data import plain


def ages(folder: Path, count: int = 12, seed: int = 0) -> Path:
    """The path of ages.csv, two thirds of which are for training."""
    (folder / "im").mkdir(parents=True, exist_ok=True)
    draw, lines = np.random.default_rng(seed), ["path,age,weight_kg,tags,bright,red,split,grade"]
    for i in range(count):
        light, red = i / count, i % 2 == 0
        pixels = np.clip(draw.normal(255 * light, 20, (32, 32, 3)), 0, 255)
        pixels[..., 0] = 255 if red else pixels[..., 0]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"im/{i}.png")
        tags = ";".join(tag for tag, has in (("bright", light > 0.5), ("red", red)) if has) or "[]"
        split = "val" if i % 3 == 1 else "train"
        lines.append(
            f"im/{i}.png,{20 + 60 * light:.2f},{3 + light:.2f},{tags},{light > 0.5:d},{red:d},{split},{i // 3 % 3}"
        )
    (folder / "ages.csv").write_text("\n".join(lines) + "\n")
    return folder / "ages.csv"


def part(table: Path, split: str, **options: Any) -> Any:
    return petl.data.dataset(table, plain(3, 32), split=split, **options)


def model_of(outputs: int, methods: Any = "bn") -> Any:
    """The same small model each time."""
    torch.manual_seed(0)
    return petl.wrap(timm.create_model("test_resnet"), methods, num_classes=outputs)
