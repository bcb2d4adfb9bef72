"""Bands of spatial frequencies: an image as the sum of parts, from its mean brightness to its finest detail."""

from __future__ import annotations

import torch
from torch import Tensor

BANDS = 8


def band_edges(height: int, width: int, bands: int = BANDS) -> list[float]:
    """Returns the upper ends of the bands, in cycles per image side; the last one is infinite.

    The first band holds the mean alone. The others grow by a constant factor, about an octave at 96 pixels, up to the finest
    detail along an axis, half the shorter side; what is finer (along diagonals) is the last band.

    >>> [round(edge, 2) for edge in band_edges(96, 96)]
    [0.75, 1.5, 3.0, 6.0, 12.0, 24.0, 48.0, inf]
    """
    finest = min(height, width) / 2
    first = min(0.75, finest / 2)
    factor = (finest / first) ** (1 / (bands - 2))
    return [*(first * factor**step for step in range(bands - 2)), finest, float("inf")]


def band_masks(height: int, width: int, bands: int = BANDS) -> Tensor:
    """Returns bool [bands, height, width // 2 + 1], which numbers of a real image's Fourier transform are in which band.

    Each number is in one band. Radii are in cycles per image side: of an oblong image, in units of its shorter side.
    """
    side = min(height, width)
    down, across = torch.fft.fftfreq(height, dtype=torch.float64), torch.fft.rfftfreq(width, dtype=torch.float64)
    radius = (down[:, None].square() + across.square()).sqrt() * side
    edges = torch.tensor(band_edges(height, width, bands), dtype=torch.float64)
    number = torch.bucketize(radius, edges)  # the first band whose upper end is not below the radius
    return number == torch.arange(bands)[:, None, None]


def band_parts(images: Tensor, bands: int = BANDS) -> Tensor:
    """Returns the parts [bands, N, C, H, W] of images [N, C, H, W]; their sum is the images.

    >>> images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    >>> torch.allclose(band_parts(images).sum(0), images)
    True
    """
    masks = band_masks(images.shape[2], images.shape[3], bands).to(images.device)
    transformed = torch.fft.rfft2(images)
    return torch.stack([torch.fft.irfft2(transformed * mask, s=images.shape[2:]) for mask in masks])


def without_band(images: Tensor, band: int, bands: int = BANDS) -> Tensor:
    """Returns the images without the frequencies of one band."""
    mask = band_masks(images.shape[2], images.shape[3], bands)[band].to(images.device)
    return images - torch.fft.irfft2(torch.fft.rfft2(images) * mask, s=images.shape[2:])


def feature_change(plain: Tensor, changed: Tensor) -> float:
    """Returns how far features [N, D] move, in units of how far images lie from their mean; 0 is not at all.

    >>> x = torch.tensor([[0.0], [2.0]])
    >>> feature_change(x, x + 1)
    1.0
    """
    plain, changed = plain.double(), changed.double()
    spread = (plain - plain.mean(0)).norm(dim=1).mean()
    return float((changed - plain).norm(dim=1).mean() / spread) if float(spread) > 0 else float("nan")
