"""Small data sets and the pipelines that read them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

CLASSES, SIZE = 3, 64


def pairs(count: int = 25, seed: int = 0, channels: int = 3, size: int = SIZE) -> TensorDataset:
    """Noise, with one brighter third of the image per class."""
    chance = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % CLASSES
    images = torch.randn(count, channels, size, size, generator=chance) * 0.5
    for row, target in zip(images, targets, strict=True):
        start = int(target) * size // CLASSES
        row[:, start : start + size // CLASSES] += 1.0
    return TensorDataset(images, targets)


def noise_pairs(count: int = 20, seed: int = 0) -> TensorDataset:
    """Noise that says nothing of its class."""
    chance = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(count, 3, SIZE, SIZE, generator=chance), torch.arange(count) % CLASSES)


class Noisy(Dataset):
    """The same images with other noise each time, as from a random augmentation; without noise if `by` is zero."""

    def __init__(self, by: float = 1.0):
        self.data, self.by = pairs(20), by

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, target = self.data[index]
        return (image + self.by * torch.randn(3, 1, 1) if self.by else image), target


def plain(channels: int, size: int = 8, **changes: object) -> dict[str, Any]:
    """A pipeline that changes nothing but the range: files of this size arrive as they are."""
    same = {"mean": (0.0,) * channels, "std": (1.0,) * channels, "crop_pct": 1.0, "crop_mode": "center"}
    return {"input_size": (channels, size, size), "interpolation": "bilinear", **same, **changes}
