"""The paired comparison of two models by balanced accuracy, which is no mean over images."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from petl.evidence.comparison import Difference
from petl.evidence.intervals import unvaried_gap

AT_ONCE = 250  # draws whose counts of all images are held together


def balanced_bootstrap(
    first: Tensor, second: Tensor, y: Tensor, classes: int, *, level: float = 0.9, draws: int = 2000, seed: int = 0
) -> Difference:
    """Returns the difference of two models' balanced accuracies on the same N images, with the interval of a paired bootstrap.

    ``first`` and ``second`` say of each image whether the prediction is right (bool [N]); ``y`` are its class numbers. Each draw
    takes N images with replacement, the same for both; classes that it leaves out don't count in it. ``error`` is the deviation
    of the draws. Where all classes have equally many images, ``mean`` is that of the accuracies.

    Raises:
        ValueError: the three are not of the same two or more images.

    >>> y = torch.tensor([0] * 90 + [1] * 10)
    >>> rare, common = torch.ones(100), torch.ones(100)
    >>> common[90:95] = 0
    >>> print(balanced_bootstrap(rare, common, y, 2))
    +0.250 +- 0.086 on 100 images (90% interval +0.100 to +0.385): the first is better
    """
    if not first.shape == second.shape == y.shape or first.ndim != 1 or len(y) < 2:
        raise ValueError(
            f"answers {tuple(first.shape)} and {tuple(second.shape)} for classes {tuple(y.shape)}; expected one of each for the "
            "same two or more images"
        )
    member = torch.nn.functional.one_hot(y.long(), classes).double()
    gaps = member * (first.double() - second.double())[:, None]
    if first is not second and (alike := _unvaried_classes(first.double() - second.double(), y)):
        return _unvaried(alike, level, len(y))
    drawn = torch.cat([_means(gaps, member, counts) for counts in _drawn_counts(len(y), draws, seed)])
    ends = torch.quantile(drawn, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64))
    mean = _means(gaps, member, torch.ones(1, len(y), dtype=torch.float64))
    return Difference(float(mean), float(drawn.std()), float(ends[0]), float(ends[1]), level, len(y))


def _unvaried_classes(gaps: Tensor, y: Tensor) -> list[tuple[int, int]]:
    """Returns (gap, images) of each class where the answers differ on all images of a class alike; else []."""
    parts = [gaps[y == number] for number in y.unique()]
    alike = all(bool((part == part[0]).all()) and float(part[0]) in (-1.0, 0.0, 1.0) for part in parts)
    return [(int(part[0]), len(part)) for part in parts] if alike else []


def _unvaried(classes: list[tuple[int, int]], level: float, count: int) -> Difference:
    """Returns the difference where no draw varies: each class has the exact interval of its images, and these are joined."""
    mean = sum(gap for gap, _ in classes) / len(classes)

    def reach(level: float) -> tuple[float, float]:
        ends = [(gap, *unvaried_gap(gap, images, level)) for gap, images in classes]
        down, up = (sum((end[side] - end[0]) ** 2 for end in ends) ** 0.5 / len(ends) for side in (1, 2))
        return down, up

    (down, up), error = reach(level), sum(reach(0.6827)) / 2
    return Difference(mean, error, mean - down, mean + up, level, count)


def _drawn_counts(count: int, draws: int, seed: int) -> Iterator[Tensor]:
    """Yields how often each image was drawn, float64 [some draws, N]."""
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, draws, AT_ONCE):
        some = min(AT_ONCE, draws - start)
        chosen = torch.randint(count, (some, count), generator=generator)
        yield torch.zeros(some, count, dtype=torch.float64).scatter_add_(
            1, chosen, torch.ones((), dtype=torch.float64).expand(some, count)
        )


def _means(gaps: Tensor, member: Tensor, counts: Tensor) -> Tensor:
    """Returns for each draw the mean over its classes of their mean gap."""
    totals = counts @ member
    there = totals > 0
    return torch.where(there, counts @ gaps / totals.clamp_min(1), 0.0).sum(1) / there.sum(1)
