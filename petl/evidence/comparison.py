"""Paired comparisons of two models on the same images, and tests by permutation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from petl.evidence.intervals import accuracy_error, at_most, standard_error, unvaried_gap


@dataclass(frozen=True)
class Difference:
    """How much better the first of two models is on the same images.

    ``mean`` is the mean of the images' differences, ``error`` its standard error (paired), ``low`` and ``high`` the ends of
    the bootstrap interval at ``level``; ``tie`` says whether the interval holds 0. ``p`` is the p-value of McNemar's exact test
    where the comparison is of right and wrong answers.
    """

    mean: float
    error: float
    low: float
    high: float
    level: float
    count: int
    p: float | None = None

    @property
    def tie(self) -> bool:
        return self.low <= 0 <= self.high

    def __str__(self) -> str:
        said = "a tie" if self.tie else "the first is better" if self.mean > 0 else "the second is better"
        ends = f"{self.level:.0%} interval {self.low:+.3f} to {self.high:+.3f}"
        test = "" if self.p is None else f", McNemar p={self.p:.2g}"
        return f"{self.mean:+.3f} +- {self.error:.3f} on {self.count} images ({ends}{test}): {said}"


def paired_bootstrap(
    first: Tensor, second: Tensor, *, level: float = 0.9, draws: int = 2000, seed: int = 0
) -> Difference:
    """Returns the difference of two models' scores [N] on the same N images, with the interval of a paired bootstrap.

    Each draw takes N images with replacement, the same for both (Efron 1979, percentile interval). ``first`` and ``second``
    hold one score an image: 1.0 where the prediction is right, or any other number of which more is better. Answers that differ
    on every image alike, or on none, have no spread to draw from; their interval is exact (`unvaried_gap`).

    Raises:
        ValueError: the two have different shapes, or fewer than two images.

    >>> right, wrong = torch.tensor([1.0] * 90 + [0.0] * 10), torch.tensor([1.0] * 60 + [0.0] * 40)
    >>> print(paired_bootstrap(right, wrong))
    +0.300 +- 0.046 on 100 images (90% interval +0.230 to +0.380): the first is better
    """
    gaps = _gaps(first, second)
    if first is not second and are_unvaried(gaps, first, second):
        return unvaried(gaps, level)
    generator = torch.Generator().manual_seed(seed)
    means = torch.empty(draws, dtype=torch.float64)
    for draw in range(draws):  # one at a time: draws x N numbers of a large set would not fit
        means[draw] = gaps[torch.randint(len(gaps), (len(gaps),), generator=generator)].mean()
    ends = torch.quantile(means, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64))
    return Difference(float(gaps.mean()), standard_error(gaps), float(ends[0]), float(ends[1]), level, len(gaps))


def are_unvaried(gaps: Tensor, first: Tensor, second: Tensor) -> bool:
    """Returns whether these are zeros and ones whose differences are the same for all images."""
    binary = all(bool(((scores == 0) | (scores == 1)).all()) for scores in (first, second))
    return binary and bool((gaps == gaps[0]).all())


def unvaried(gaps: Tensor, level: float) -> Difference:
    """Returns the difference of answers that differ on all images alike, with its exact interval."""
    gap, count = int(gaps[0]), len(gaps)
    (low, high), (below, above) = unvaried_gap(gap, count, level), unvaried_gap(gap, count, 0.6827)
    return Difference(float(gap), (above - below) / 2, low, high, level, count)


def mcnemar(first_right: Tensor, second_right: Tensor) -> float:
    """Returns the two-sided p-value of McNemar's exact test (1947): whether two models are right equally often.

    Both arguments are bool [N], for the same images. Only images count on which exactly one model is right.

    >>> round(mcnemar(torch.tensor([True] * 8 + [False] * 2), torch.tensor([False] * 8 + [True] * 2)), 4)
    0.1094
    """
    first, second = first_right.bool(), second_right.bool()
    if first.shape != second.shape:
        raise ValueError(f"predictions of {tuple(first.shape)} and {tuple(second.shape)} images can't be paired")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    either = only_first + only_second
    return min(1.0, 2 * at_most(min(only_first, only_second), either, 0.5)) if either else 1.0


def paired_permutation(first: Tensor, second: Tensor, *, draws: int = 2000, seed: int = 0) -> float:
    """Returns the two-sided p-value of the paired permutation test: the sign of each image's difference is drawn anew.

    The p-value is (1 + draws that differ at least as much) / (1 + draws), so it is never 0 (Phipson and Smyth 2010).
    """
    gaps = _gaps(first, second)
    generator = torch.Generator().manual_seed(seed)

    def drawn() -> float:
        return abs(float((gaps * (torch.randint(2, (len(gaps),), generator=generator) * 2 - 1)).mean()))

    return p_value(abs(float(gaps.mean())), drawn, draws)


def p_value(observed: float, drawn: Callable[[], float], draws: int) -> float:
    """Returns the p-value of ``observed`` among ``draws`` calls of ``drawn()``: (1 + how many are as large) / (1 + draws).

    Values that differ from ``observed`` by rounding alone count as equal.
    """
    limit = observed - 1e-12 * max(1.0, abs(observed))
    return (1 + sum(drawn() >= limit for _ in range(draws))) / (1 + draws)


def across_seeds(first: list[float], second: list[float]) -> tuple[float, float]:
    """Returns (mean, standard error) of the differences of two methods' results, paired by seed.

    With one seed the error is nan.

    >>> mean, error = across_seeds([0.81, 0.83, 0.82], [0.80, 0.81, 0.81])
    >>> round(mean, 4), round(error, 4)
    (0.0133, 0.0033)
    """
    gaps = torch.tensor([a - b for a, b in zip(first, second, strict=True)], dtype=torch.float64)
    return (float(gaps.mean()), standard_error(gaps)) if len(gaps) else (math.nan, math.nan)


def across_seeds_and_images(values: Tensor) -> tuple[float, float]:
    """Returns the mean of values [S, N], one for each seed and image, and its standard error, for other seeds and other images.

    Where the same N images are measured under each of S seeds, neither the S N values nor the S means are independent. The
    squared error is that over seeds, plus that over images, minus what both count (the rest of two-way analysis of
    variance); it is at least the larger of the two. For two methods pass their differences. With one seed the error is that
    over images. Where all are right, or all wrong, under each seed, it is that of `accuracy_error`.

    >>> same = torch.tensor([[1.0, 0.0, 1.0, 1.0]] * 3)  # seeds that always agree say nothing new
    >>> mean, error = across_seeds_and_images(same)
    >>> mean, round(error, 3)
    (0.75, 0.25)
    """
    if values.ndim != 2 or not values.numel():
        raise ValueError(f"values of shape {tuple(values.shape)}; expected one for each seed and image [S, N]")
    values = values.double()
    seeds, images = values.mean(1), values.mean(0)
    mean, over_images = float(values.mean()), standard_error(images)
    if mean in (0.0, 1.0) and bool((values == mean).all()):
        return mean, accuracy_error(mean, len(images))
    if len(values) == 1:
        return mean, over_images
    over_seeds = standard_error(seeds)
    if len(images) == 1:
        return mean, over_seeds
    rest = values - seeds[:, None] - images[None, :] + mean
    freedom = (len(seeds) - 1) * (len(images) - 1)
    both = float(rest.square().sum()) / freedom / values.numel()
    return mean, math.sqrt(max(over_seeds**2 + over_images**2 - both, over_seeds**2, over_images**2))


def _gaps(first: Tensor, second: Tensor) -> Tensor:
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise ValueError(
            f"scores of shapes {tuple(first.shape)} and {tuple(second.shape)}; expected one score an image, for the same two "
            f"or more images"
        )
    return first.double() - second.double()
