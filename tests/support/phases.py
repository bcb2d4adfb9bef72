"""A task that a frozen stem can't see: the phase of a checkerboard of single pixels, behind a stem that blurs."""

from __future__ import annotations

import timm
import torch
from torch import nn
from torch.utils.data import TensorDataset


def phases(count: int, seed: int = 0, size: int = 32) -> TensorDataset:
    """Smooth noise plus a checkerboard of single pixels that fades out at the borders; its sign is the class."""
    chance = torch.Generator().manual_seed(seed)
    targets = torch.arange(count) % 2
    noise = torch.nn.functional.avg_pool2d(torch.randn(count, 3, size + 4, size + 4, generator=chance), 5, 1) * 2
    line = torch.arange(size)
    board = 1.0 - 2.0 * ((line[:, None] + line) % 2)
    window = torch.hann_window(size, periodic=False)
    sign = 1.0 - 2.0 * targets.float()
    return TensorDataset(noise + sign[:, None, None, None] * (board * window[:, None] * window), targets)


def blurred(seed: int = 0) -> nn.Module:
    """A small net whose first layer takes a binomial mean of 3 x 3 pixels, which has no answer to such a board."""
    torch.manual_seed(seed)
    model = timm.create_model("test_resnet")
    kernel = torch.tensor([1.0, 2.0, 1.0])
    with torch.no_grad():
        first = model.conv1[0].weight
        mixed = torch.randn(first.shape[0], first.shape[1], 1, 1)
        first.copy_(mixed * (kernel[:, None] * kernel)[None, None] / 16)
    return model.eval()
