"""Images, folders and models whose features are looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

SIZE = 64


def small(name: str = "test_resnet", **options: Any) -> Any:
    """One of timm's small models, with the same weights at every call, and norms that have seen something."""
    torch.manual_seed(0)
    model = timm.create_model(name, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.uniform_(-0.1, 0.1)
    return model


def noise(count: int = 7, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def pictures(folder: Path, count: int, seed: int = 0) -> Path:
    """A folder with so many small images of noise in it."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(seed)
    for number in range(count):
        pixels = chance.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


class Items(Dataset[Any]):
    """A dataset that petl doesn't know, whose items are what ``item`` makes of a number; ``reads`` counts them."""

    def __init__(self, item: Any, count: int = 5):
        self.item, self.count, self.reads = item, count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return self.item(index)


class Counted:
    """Counts the images that go through a model's forward while it is open."""

    def __init__(self, model: nn.Module):
        self.images = 0
        self.hook = model.register_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.images += len(args[0])

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()
