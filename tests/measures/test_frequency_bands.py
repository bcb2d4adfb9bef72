"""Bands of frequencies add up to the image, and hold what they say."""

from __future__ import annotations

import pytest
import torch

from petl.measures.frequency_bands import BANDS, band_edges, band_masks, band_parts, without_band


@pytest.mark.parametrize("size", [(32, 32), (33, 32), (32, 45), (224, 224), (16, 16)])
def test_the_bands_are_the_image(size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    parts = band_parts(images)
    assert torch.allclose(parts.sum(0), images, atol=1e-12)
    assert (band_masks(*size).sum(0) == 1).all()
    assert torch.allclose(without_band(images, 3), images - parts[3], atol=1e-12)
    assert all(bool(mask.any()) for mask in band_masks(*size))


def test_the_first_band_is_the_mean_and_a_wave_is_in_one() -> None:
    images = torch.randn(1, 1, 96, 96, dtype=torch.float64)
    assert torch.allclose(band_parts(images)[0], images.mean().expand_as(images))
    wave = torch.sin(2 * torch.pi * 20 * torch.arange(96, dtype=torch.float64) / 96).expand(1, 1, 96, 96)
    power = band_parts(wave).square().sum((1, 2, 3, 4))
    (number,) = [n for n in range(BANDS) if power[n] > 1e-9]
    edges = [0, *band_edges(96, 96)]
    assert edges[number] < 20 <= edges[number + 1]
    assert without_band(wave, number).abs().max() < 1e-12
