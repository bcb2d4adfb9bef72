"""Paired intervals of balanced accuracies."""

from __future__ import annotations

import pytest
import torch

from petl.evidence.balanced_comparison import balanced_bootstrap
from petl.evidence.comparison import paired_bootstrap


def test_even_classes_give_the_difference_of_the_accuracies() -> None:
    y = torch.arange(200) % 2
    first = torch.rand(200, generator=torch.Generator().manual_seed(0)) < 0.8
    second = torch.rand(200, generator=torch.Generator().manual_seed(1)) < 0.6
    balanced, plain = balanced_bootstrap(first, second, y, 2), paired_bootstrap(first.double(), second.double())
    assert balanced.mean == pytest.approx(plain.mean)
    assert balanced.low == pytest.approx(plain.low, abs=0.02) and balanced.high == pytest.approx(plain.high, abs=0.02)
    assert balanced == balanced_bootstrap(first, second, y, 2)


def test_a_rare_class_counts_as_much_as_a_common_one() -> None:
    y = torch.tensor([0] * 96 + [1] * 4)
    first, second = torch.ones(100).bool(), torch.ones(100).bool()
    second[-2:] = False
    found = balanced_bootstrap(first, second, y, 3)  # of class 2 there is no image
    assert (found.mean == pytest.approx(0.25) and found.tie is False) or found.low >= 0
    assert balanced_bootstrap(first, first, y, 3).tie


def test_five_percent_of_equal_models_are_told_apart_at_either_end() -> None:
    generator, outside = torch.Generator().manual_seed(0), 0
    y = (torch.arange(120) % 6 == 0).long()
    for seed in range(60):
        first, second = (torch.rand(120, generator=generator) < 0.7 for _ in range(2))
        outside += not balanced_bootstrap(first, second, y, 2, draws=200, seed=seed).tie
    assert outside <= 14  # 10 % of 60 are 6; 14 happen once in 1000


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="one of each"):
        balanced_bootstrap(torch.ones(3).bool(), torch.ones(4).bool(), torch.zeros(4).long(), 2)


def test_classes_that_do_not_vary_have_the_width_of_their_few_images() -> None:
    y = torch.tensor([0] * 20 + [1] * 5)
    right, wrong, part = torch.ones(25), torch.zeros(25), (y == 1).float()
    for first, second, mean in (
        (right, wrong, 1.0),
        (right, right.clone(), 0.0),
        (right, part, 0.5),
        (wrong, part, -0.5),
    ):
        found = balanced_bootstrap(first, second, y, 2)
        assert found.mean == mean and found.low < mean + 1e-9 and found.high > mean - 1e-9
        assert found.error > 0 and found.high - found.low > found.error
        assert found.low >= -1 and found.high <= 1
