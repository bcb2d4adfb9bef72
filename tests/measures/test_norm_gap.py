"""The gap between channels and what a norm layer knows of them."""

from __future__ import annotations

import math

import torch

from petl.measures.norm_gap import feature_gap, norm_gap, thirds


def test_the_gap_of_gains_and_offsets_is_that_of_the_formula() -> None:
    mean, variance = torch.randn(6), torch.rand(6) + 0.1
    assert norm_gap(mean, variance, mean, variance) == 0
    moved = norm_gap(mean + 2 * variance.sqrt(), variance, mean, variance)
    wider = norm_gap(mean, variance * math.e**2, mean, variance)
    assert abs(moved - 4) < 1e-5 and abs(wider - 1) < 1e-5


def test_a_dead_channel_gives_a_number() -> None:
    dead = torch.zeros(3)
    assert norm_gap(dead, dead, dead, dead) == 0
    assert math.isfinite(norm_gap(torch.ones(3), torch.ones(3), dead, dead, eps=1e-5))


def test_features_of_one_set_are_near_and_moved_ones_far() -> None:
    x = torch.randn(200, 30, generator=torch.Generator().manual_seed(0))
    x[:, 3] = 5.0  # a column that doesn't vary
    assert feature_gap(x[:100], x[100:]) < 0.1
    assert feature_gap(x[:100] + 2, x[100:]) > 3
    assert math.isnan(feature_gap(x[:1], x))


def test_thirds_of_any_number_of_layers() -> None:
    assert thirds([1.0]) == (1.0, 1.0, 1.0)
    assert thirds([1.0, 3.0]) == (1.0, 2.0, 3.0)
    assert all(math.isnan(part) for part in thirds([]))
