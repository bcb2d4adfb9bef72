"""How much of an estimated change of class frequencies is believed, and how wide an honest interval of them is at least."""

from __future__ import annotations

from torch import Tensor

from petl.evidence.intervals import binomial_interval

Interval = tuple[float, float]


def believed_share(variation: float, chance: Tensor) -> float:
    """Returns how much of a change is believed, 0 to 1: what its total variation has beyond those by ``chance`` [draws].

    That is ``1 - mean(chance^2) / variation^2``, or 0 where it is negative: the estimate is shrunk towards no change as James and
    Stein (1961) did. A change as large as chance alone makes is not believed, one three times as large for eight ninths.

    >>> import torch
    >>> [round(believed_share(variation, torch.tensor([0.1, 0.1])), 2) for variation in (0.1, 0.3, 0.0)]
    [0.0, 0.89, 0.0]
    """
    noise = float(chance.double().square().mean())
    return max(0.0, 1 - noise / variation**2) if variation > 0 else 0.0


def believed_frequencies(source: Tensor, target: Tensor, share: float, images: int) -> Tensor:
    """Returns the frequencies [K] that a correction takes: that share of the way from ``source`` to ``target`` [K].

    Each is half an image of the target's ``images`` at least, as a class that none of them showed may still come.

    >>> import torch
    >>> believed_frequencies(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]), 1.0, 50).round(decimals=2).tolist()
    [0.99, 0.01]
    """
    source, target = source.double(), target.double()
    found = (source + share * (target - source)).clamp_min(1 / (2 * images))
    return found / found.sum()


def counted_interval(share: float, images: int) -> Interval:
    """Returns the exact 95 % interval of a share as if the images had been counted; 0 of 100 may be .036.

    >>> [round(end, 3) for end in counted_interval(0.0, 100)]
    [0.0, 0.036]
    """
    return binomial_interval(min(images, max(0, round(share * images))), images)


def at_least_as_wide(interval: Interval, other: Interval) -> Interval:
    """Returns the interval that holds both.

    >>> at_least_as_wide((0.2, 0.2), (0.1, 0.3))
    (0.1, 0.3)
    """
    return min(interval[0], other[0]), max(interval[1], other[1])


def counted_variation(source: Tensor, target: Tensor, images: int) -> Interval:
    """Returns the interval of the total variation as if the images had been counted: by their share of the classes with more.

    >>> import torch
    >>> [round(end, 2) for end in counted_variation(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]), 100)]
    [0.46, 0.5]
    """
    more = target > source
    low, high = counted_interval(float(target[more].sum()), images)
    before = float(source[more].sum())
    return max(0.0, low - before), max(0.0, high - before)
