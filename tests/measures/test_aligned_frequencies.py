"""Frequencies of classes that all look a little different."""

from __future__ import annotations

import torch
from torch import Tensor

from petl.measures.aligned_frequencies import aligned_draws, class_clouds, fitted_clouds


def scores(y: Tensor, seed: int, moved: float = 0.0, near: float = 1.0) -> Tensor:
    noise = torch.randn(len(y), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 3 * near * torch.eye(4, dtype=torch.float64)[y] + noise * 0.7 + moved * torch.tensor([1.0, 0.5, 0.0, -1.0])


def test_a_common_move_is_not_taken_for_other_frequencies() -> None:
    source = torch.arange(200) % 4
    clouds = class_clouds(scores(source, 0), source)
    same = fitted_clouds(clouds, scores(source, 1, moved=2.0))
    assert float((same.frequencies - 0.25).abs().max()) < 0.08 and abs(same.nearness - 1) < 0.1
    other = torch.tensor([0] * 140 + [1] * 40 + [2] * 20)
    found = fitted_clouds(clouds, scores(other, 2, moved=2.0)).frequencies
    assert float((found - torch.tensor([0.7, 0.2, 0.1, 0.0])).abs().max()) < 0.08


def test_draws_show_what_chance_does() -> None:
    source = torch.arange(200) % 4
    clouds = class_clouds(scores(source, 0), source)
    drawn = aligned_draws(clouds, 200, draws=20)
    assert drawn.shape == (20, 4) and float((drawn.mean(0) - 0.25).abs().max()) < 0.05
    again = aligned_draws(clouds, 200, draws=20)
    assert torch.equal(drawn, again)


def test_classes_that_come_nearer_are_no_other_frequencies_and_the_nearness_is_told() -> None:
    source = torch.arange(200) % 4
    clouds = class_clouds(scores(source, 0), source)
    for near in (0.7, 0.4):
        found = fitted_clouds(clouds, scores(source, 1, moved=1.0, near=near))
        assert abs(found.nearness - near) < 0.1
        assert float((found.frequencies - 0.25).abs().max()) < 0.15
