"""What gray reaches of filters, and which pictures are gray."""

from __future__ import annotations

import pytest
import torch

from petl.measures.stem_reach import gray_images, stem_reach


@pytest.mark.parametrize("channels", [2, 3, 5])
def test_a_filter_of_equal_channels_is_reached_and_an_opponent_one_is_not(channels: int) -> None:
    plain = torch.randn(1, 1, 3, 3).expand(1, channels, 3, 3)
    opponent = plain.clone()
    opponent[:, 0] = -plain[:, 1:].sum(1)
    found = stem_reach(torch.cat([plain, opponent, torch.zeros(1, channels, 3, 3)]))
    torch.testing.assert_close(found.filters, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), atol=1e-6, rtol=0)
    assert 0 < found.share < 1


def test_the_share_is_that_of_what_gray_images_excite() -> None:
    weight = torch.randn(8, 3, 3, 3, dtype=torch.float64)
    gray = weight.mean(1, keepdim=True).expand_as(weight)  # the part of the filters that gray can reach
    assert abs(stem_reach(weight).share - float(gray.square().sum() / weight.square().sum())) < 1e-12


def test_gray_pictures_are_told_from_coloured_ones() -> None:
    gray = torch.rand(5, 1, 8, 8).expand(5, 3, 8, 8)
    colour = torch.rand(5, 3, 8, 8)
    assert gray_images(torch.cat([gray, colour])).tolist() == [True] * 5 + [False] * 5
    scale, offset = torch.tensor([2.0, 3.0, 4.0]).view(3, 1, 1), torch.tensor([1.0, 0.0, -1.0]).view(3, 1, 1)
    assert gray_images(gray * scale + offset, same_scale=False).all()  # normalised, each channel in its own way
    assert not gray_images(colour * scale + offset, same_scale=False).any()
    assert gray_images(torch.rand(2, 1, 4, 4)).all()
