"""Where a network looks: which positions of a feature map raise a score, by gradient times activation."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def layer_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Returns how much each position raises the score, [N, H, W] for maps and gradients [N, C, H, W].

    It is the sum over channels of ``relu(gradient) * activation``, without what is below 0 (LayerCAM, Jiang et al. 2021).

    >>> layer_cam(torch.ones(1, 2, 1, 1), torch.tensor([[[[1.0]], [[-3.0]]]])).item()
    1.0
    """
    return (gradient.clamp_min(0) * activation).sum(1).clamp_min(0)


def first_order_effect(activation: Tensor, gradient: Tensor) -> Tensor:
    """Returns how much the score changes for a position that grows by one part: ``sum gradient * activation``, [N, H, W]."""
    return (gradient * activation).sum(1)


def unit_range(maps: Tensor) -> Tensor:
    """Returns maps [N, H, W] divided by their largest values; a map of zeros stays as it is."""
    largest = maps.flatten(1).amax(1)[:, None, None]
    return maps / torch.where(largest > 0, largest, torch.ones_like(largest))


def token_grid(tokens: int, ratio: float, prefix: int | None = None) -> tuple[int, int, int] | None:
    """Returns (prefix, height, width) of tokens that are a grid of patches behind some others; None if none fits.

    ``ratio`` is width over height of the image; ``prefix`` how many tokens come first, where that is known.

    >>> token_grid(197, 1.0), token_grid(50, 1.0, 1), token_grid(33, 2.0)
    ((1, 14, 14), (1, 7, 7), (1, 4, 8))
    """
    for first in [prefix] if prefix is not None else range(9):
        height = round(math.sqrt((tokens - first) / ratio)) if tokens > first else 0
        if height and height * round(height * ratio) == tokens - first:
            return first, height, round(height * ratio)
    return None
