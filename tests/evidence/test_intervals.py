"""Standard errors and intervals against known values and scipy."""

from __future__ import annotations

import math

import pytest
import torch

from petl.evidence.intervals import (
    accuracy_error,
    at_least,
    at_most,
    balanced_error,
    binomial_interval,
    standard_error,
)

scipy_stats = pytest.importorskip("scipy.stats")


def test_the_standard_error_of_zeros_and_ones_is_that_of_the_accuracy() -> None:
    right = torch.tensor([1.0] * 70 + [0.0] * 30)
    assert math.isclose(standard_error(right), accuracy_error(0.7, 100), rel_tol=1e-12)
    assert math.isclose(standard_error(right), float(scipy_stats.sem(right.numpy())), rel_tol=1e-6)


def test_one_image_has_no_error_and_ten_of_ten_is_not_certain() -> None:
    assert math.isnan(standard_error(torch.ones(1))) and math.isnan(accuracy_error(1.0, 1))
    assert 0.05 < accuracy_error(1.0, 10) < 0.1 and accuracy_error(0.0, 10) == pytest.approx(accuracy_error(1.0, 10))


def test_a_balanced_accuracy_has_the_errors_of_its_classes() -> None:
    y = torch.tensor([0] * 120 + [1] * 4)
    all_right, even = torch.ones(124, dtype=torch.bool), torch.arange(16) % 2
    assert balanced_error(all_right, y) == pytest.approx(math.hypot(accuracy_error(1, 120), accuracy_error(1, 4)) / 2)
    assert 0.02 < balanced_error(even >= 0, even) < 0.1  # all of 16 right is not certain
    right = torch.rand(1000, generator=torch.Generator().manual_seed(0)) < 0.7
    assert balanced_error(right, torch.arange(1000) % 2) == pytest.approx(standard_error(right.double()), rel=0.01)
    assert balanced_error(torch.tensor([True, True, True, False]), torch.tensor([0, 0, 2, 0])) > 0  # an image alone


@pytest.mark.parametrize(("successes", "count"), [(0, 7), (1, 7), (7, 7), (30, 100), (499, 1000), (99_000, 100_000)])
@pytest.mark.parametrize("level", [0.6827, 0.9, 0.99])
def test_the_interval_is_that_of_clopper_and_pearson(successes: int, count: int, level: float) -> None:
    theirs = scipy_stats.binomtest(successes, count).proportion_ci(level, method="exact")
    assert binomial_interval(successes, count, level) == pytest.approx((theirs.low, theirs.high), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("successes", "count", "p"), [(0, 5, 0.2), (3, 5, 0.2), (5, 5, 0.9), (40, 1000, 0.05), (-1, 3, 0.5)]
)
def test_tails_are_those_of_the_binomial_distribution(successes: int, count: int, p: float) -> None:
    assert at_most(successes, count, p) == pytest.approx(float(scipy_stats.binom.cdf(successes, count, p)), abs=1e-10)
    assert at_least(successes, count, p) == pytest.approx(
        float(scipy_stats.binom.sf(successes - 1, count, p)), abs=1e-10
    )


@pytest.mark.parametrize("wrong", [(-1, 5, 0.9), (6, 5, 0.9), (0, 0, 0.9), (1, 5, 0.0), (1, 5, 1.0)])
def test_impossible_counts_are_refused(wrong: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="expected 0 <= successes <= count"):
        binomial_interval(*wrong)
