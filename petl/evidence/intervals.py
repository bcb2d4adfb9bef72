"""Standard errors of means and exact intervals of proportions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def standard_error(values: Tensor) -> float:
    """Returns the standard error of the mean of ``values`` [N], of which each is one image's: deviation / sqrt(N).

    With one image there is no deviation to estimate, so the error is nan.

    >>> import torch
    >>> round(standard_error(torch.tensor([1.0, 0.0, 1.0, 1.0])), 3)
    0.25
    """
    if values.numel() < 2:
        return math.nan
    return float(values.double().std(unbiased=True)) / math.sqrt(values.numel())


def accuracy_error(accuracy: float, count: int) -> float:
    """Returns the standard error of an accuracy (0 to 1) measured on ``count`` images.

    The same as `standard_error` of zeros and ones. Where all images are right, or all wrong, the deviation is no estimate: half
    of the exact 68 % interval is returned instead, so that 10 of 10 right is not called certain. With one image it is nan.

    >>> round(accuracy_error(0.75, 4), 3), round(accuracy_error(1.0, 10), 3)
    (0.25, 0.084)
    """
    if count < 2:
        return math.nan
    if 0 < accuracy < 1:
        return math.sqrt(accuracy * (1 - accuracy) / (count - 1))
    low, high = binomial_interval(round(accuracy * count), count, level=0.6827)
    return (high - low) / 2


def recall_error(right: int, images: int) -> float:
    """Returns the standard error of a class's recall; of one image alone, half of the exact 68 % interval."""
    if images > 1:
        return accuracy_error(right / images, images)
    low, high = binomial_interval(right, images, level=0.6827)
    return (high - low) / 2


def unvaried_gap(gap: int, count: int, level: float) -> tuple[float, float]:
    """Returns the ends of the interval of a difference that was ``gap`` (-1, 0 or 1) on each of ``count`` images.

    What happened on every image happens on at least the share that the exact interval of ``count`` of ``count`` leaves; on the
    others the opposite may. So two models that differ in the same way on all of four images are a tie, as by McNemar's test.

    >>> [round(end, 3) for end in unvaried_gap(1, 20, 0.9)], [round(end, 3) for end in unvaried_gap(0, 20, 0.9)]
    ([0.722, 1.0], [-0.139, 0.139])
    """
    least, _ = binomial_interval(count, count, level)
    return (2 * least - 1, 1.0) if gap > 0 else (-1.0, 1 - 2 * least) if gap < 0 else (least - 1, 1 - least)


def balanced_error(right: Tensor, y: Tensor) -> float:
    """Returns the standard error of a balanced accuracy: ``right`` [N] says which answers are right, ``y`` [N] the classes.

    Each class has the error of its own accuracy, which isn't 0 where all of its few images are right.

    >>> y = torch.tensor([0] * 120 + [1] * 4)
    >>> round(balanced_error(y >= 0, y), 3)
    0.092
    """
    counts = torch.bincount(y)
    hits = torch.bincount(y[right.bool()], minlength=len(counts))
    parts = [recall_error(int(hit), int(count)) for hit, count in zip(hits, counts, strict=True) if count]
    return math.sqrt(sum(part**2 for part in parts)) / len(parts)


def binomial_interval(successes: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Returns the exact interval of a proportion (Clopper and Pearson 1934): (low, high), both from 0 to 1.

    Raises:
        ValueError: ``successes`` is not between 0 and ``count``, or ``level`` not between 0 and 1.

    >>> [round(end, 4) for end in binomial_interval(8, 10)]
    [0.4439, 0.9748]
    """
    if not 0 <= successes <= count or count < 1 or not 0 < level < 1:
        raise ValueError(f"{successes} of {count} at level {level}; expected 0 <= successes <= count and 0 < level < 1")
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else _solved(lambda p: at_least(successes, count, p) - tail)
    high = 1.0 if successes == count else _solved(lambda p: tail - at_most(successes, count, p))
    return low, high


def at_least(successes: int, count: int, p: float) -> float:
    """Returns the probability of ``successes`` or more in ``count`` tries of probability ``p``."""
    return at_most(count - successes, count, 1 - p)


def at_most(successes: int, count: int, p: float) -> float:
    """Returns the probability of ``successes`` or fewer in ``count`` tries of probability ``p``."""
    if successes < 0:
        return 0.0
    if successes >= count or p <= 0:
        return 1.0
    if p >= 1:
        return 0.0
    if successes > count * p:  # sum the shorter tail
        return 1.0 - _summed(count - successes - 1, count, 1 - p)
    return min(1.0, _summed(successes, count, p))


def _summed(successes: int, count: int, p: float) -> float:
    """Returns the lower tail below the mean: terms fall from the last to the first; those too small to count are left out."""
    if successes < 0:
        return 0.0
    choose = math.lgamma(count + 1) - math.lgamma(successes + 1) - math.lgamma(count - successes + 1)
    term = total = math.exp(choose + successes * math.log(p) + (count - successes) * math.log1p(-p))
    for k in range(successes, 0, -1):
        term *= k * (1 - p) / ((count - k + 1) * p)
        total += term
        if term < total * 1e-17:
            break
    return total


def _solved(rising: Callable[[float], float]) -> float:
    """Returns the root of a rising function between 0 and 1, by halving until the ends meet."""
    low, high = 0.0, 1.0
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return middle
