"""Small backbones to rank: their weights as files, and networks whose features are known."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tests.support.feature_data import small


class Telling(nn.Module):
    """A network without a classifier: its features are the mean of each channel, with as much noise as asked for."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.noise = noise
        self.weight = nn.Parameter(torch.ones(3))
        self.num_classes = 0
        self.seen = 0

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def get_classifier(self) -> nn.Module:
        return nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        means = images.mean((2, 3)) * self.weight
        odd = (images[:, :, 0, 0] * 1e4).frac()  # the same for an image in any batch, and no part of its class
        return means + self.noise * odd


def weights_file(folder: Path, name: str = "test_resnet") -> Path:
    """A checkpoint of one of timm's small models."""
    save_file(small(name).state_dict(), folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


def told_by_colour(count: int, classes: int = 2, side: int = 32, seed: int = 0) -> TensorDataset:
    """Noise whose red is brighter from class to class."""
    y = torch.arange(count) % classes
    x = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))
    x[:, 0] += 0.3 * y[:, None, None]
    return TensorDataset(x, y)
