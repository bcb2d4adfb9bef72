"""Images that are there twice."""

from __future__ import annotations

import torch

from petl.measures.twin_images import equal_images, twin_pairs


def test_twins_are_found_and_others_are_not() -> None:
    pictures = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pictures[4] = pictures[1] * 0.5 + 0.2 + 0.001 * torch.randn(3, 8, 8)
    pictures[5] = pictures[1]
    assert [pair[:2] for pair in twin_pairs(pictures)] == [(1, 5), (1, 4), (4, 5)]
    assert equal_images(pictures) == {5: 1}
    features = torch.eye(6)
    features[5] = features[1]
    assert [pair[:2] for pair in twin_pairs(pictures, features)] == [(1, 5)]
    assert twin_pairs(torch.ones(3, 1, 4, 4)) == []
