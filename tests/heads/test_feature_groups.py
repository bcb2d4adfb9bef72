"""Heads on groups of features of different scales, and the choice of features without fooling oneself."""

from __future__ import annotations

import torch

from petl.heads.closed_form import fitted_head
from petl.heads.feature_groups import grouped_head, kept_features
from tests.heads.test_closed_form import blobs


def test_a_group_counts_the_same_whatever_its_unit() -> None:
    x, y = blobs(60, 12, spread=1.0)
    one = grouped_head(x, y, [4, 8], 3)
    other = grouped_head(torch.cat([x[:, :4] * 1e3, x[:, 4:] + 5], 1), y, [4, 8], 3)
    torch.testing.assert_close(one.left_out, other.left_out, rtol=1e-6, atol=1e-6)
    scores = torch.cat([x[:, :4] * 1e3, x[:, 4:] + 5], 1) @ other.weight.T + other.bias
    torch.testing.assert_close(scores, x @ one.weight.T + one.bias, rtol=1e-6, atol=1e-6)


def test_one_group_is_the_plain_head() -> None:
    x, y = blobs(40, 12)
    assert torch.equal(grouped_head(x, y, [12], 3).weight, fitted_head(x, y, 3, "auto").weight)


def test_few_useful_features_are_found_among_noise_and_noise_alone_is_kept_whole() -> None:
    x, y = blobs(120, 4, spread=0.3)
    noise = 2 * torch.randn(120, 400, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    kept = kept_features(torch.cat([noise, x], 1), y, 3)
    assert len(kept) < 100 and len({400, 401, 402, 403} & {*kept.tolist()}) >= 3
    assert len(kept_features(noise, y, 3)) == 400


def test_groups_that_do_not_vary_change_nothing() -> None:
    x, y = blobs(40, 6)
    wider = torch.cat([torch.full((40, 3), 2.0, dtype=torch.float64), x], 1)
    head = grouped_head(wider, y, [3, 6], 3)
    assert torch.isfinite(head.weight).all() and head.accuracy(y) > 0.6
