"""Frequencies of classes that all look a little different."""

from __future__ import annotations

import torch
from torch import Tensor

from petl.measures.aligned_frequencies import aligned_draws, aligned_frequencies, class_clouds


def scores(y: Tensor, seed: int, moved: float = 0.0) -> Tensor:
    noise = torch.randn(len(y), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 3 * torch.eye(4, dtype=torch.float64)[y] + noise * 0.7 + moved * torch.tensor([1.0, 0.5, 0.0, -1.0])


def test_a_common_move_is_not_taken_for_other_frequencies() -> None:
    source = torch.arange(200) % 4
    clouds = class_clouds(scores(source, 0), source)
    same = aligned_frequencies(clouds, scores(source, 1, moved=2.0))
    assert float((same - 0.25).abs().max()) < 0.08
    other = torch.tensor([0] * 140 + [1] * 40 + [2] * 20)
    found = aligned_frequencies(clouds, scores(other, 2, moved=2.0))
    assert float((found - torch.tensor([0.7, 0.2, 0.1, 0.0])).abs().max()) < 0.08


def test_draws_show_what_chance_does() -> None:
    source = torch.arange(200) % 4
    clouds = class_clouds(scores(source, 0), source)
    drawn = aligned_draws(clouds, scores(source, 1), draws=20)
    assert drawn.shape == (20, 4) and float((drawn.mean(0) - 0.25).abs().max()) < 0.05
    again = aligned_draws(clouds, scores(source, 1), draws=20)
    assert torch.equal(drawn, again)
