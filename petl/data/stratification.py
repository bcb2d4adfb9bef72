"""Divides images so that each part has the same share of everything, and groups stay whole: algorithms on arrays alone.

Groups, and images with several labels, are given one by one to the part where all shares stay most alike, the most uneven group
first, as scikit-learn's StratifiedGroupKFold does it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MOST_BINS = 10  # of numbers, which are divided by size
TRIES, MOST_GROUPS_TRIED = 5, 2000  # orders of the groups that are tried, and up to how many groups


def bins_of(values: np.ndarray, parts: int) -> np.ndarray:
    """Returns for each number [N] the quantile that it is in: up to ten, of at least ``parts`` numbers each; NaN is one too.

    >>> bins_of(np.array([3.0, 1.0, 2.0, 4.0, np.nan]), 2).tolist()
    [1, 0, 0, 1, 2]
    """
    known = np.flatnonzero(~np.isnan(values))
    count = int(np.clip(len(known) // max(parts, 1), 1, MOST_BINS))
    edges = np.quantile(values[known], np.arange(1, count) / count) if len(known) else np.zeros(0)
    bins = np.searchsorted(edges, values, side="left")
    bins[np.isnan(values)] = count
    return bins


def one_hot(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Returns a column of 0 and 1 for each value of each column of whole numbers."""
    return np.concatenate([column[:, None] == np.unique(column) for column in columns], axis=1).astype(np.float64)


def deal(classes: np.ndarray, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Returns the part [N] of each image: the images of a class, and all together, differ by at most one between parts."""
    _, numbers = np.unique(classes, return_inverse=True)
    ordered = np.sort(numbers)
    quota = np.stack([np.bincount(ordered[part::parts], minlength=numbers.max() + 1) for part in range(parts)])
    found = np.zeros(len(classes), dtype=np.int64)
    for number in range(quota.shape[1]):
        found[rng.permutation(np.flatnonzero(numbers == number))] = np.repeat(np.arange(parts), quota[:, number])
    return found


def assign(
    strata: np.ndarray,
    groups: np.ndarray,
    shares: Sequence[float],
    rng: np.random.Generator,
    *,
    spare_last: bool = False,
) -> np.ndarray:
    """Returns the part [N] of each image, so that each part has its share of every stratum and groups stay whole.

    Args:
        strata: What each image is, 0 or 1 for each of its classes or labels [N, C].
        groups: The number of each image's group [N], from 0.
        shares: Of each part, together 1.
        spare_last: Whether part 0 keeps at least one group of each stratum, and the others get one where that is possible.
    """
    size = int(groups.max()) + 1
    counts = np.zeros((size, strata.shape[1] + 1))
    np.add.at(counts, groups, np.concatenate([strata, np.ones((len(strata), 1))], axis=1))  # the last one is the size
    best: tuple[tuple[float, float], np.ndarray] | None = None
    for _ in range(TRIES if size <= MOST_GROUPS_TRIED else 1):
        parts, quality = _assigned(counts, np.asarray(shares), rng, spare_last)
        if best is None or quality < best[0]:
            best = quality, parts
    assert best is not None
    parts = best[1]
    if spare_last and not parts.any():  # few large groups, each far from the share: the smallest is nearest
        free = [group for group in range(size) if ((counts > 0).sum(0)[counts[group] > 0] > 1).all()]
        parts[min(free, key=lambda group: counts[group, -1], default=0)] = 1 if free else 0
    return parts[groups]


def _assigned(
    counts: np.ndarray, shares: np.ndarray, rng: np.random.Generator, spare_last: bool
) -> tuple[np.ndarray, tuple[float, float]]:
    """Returns the part of each group, and how uneven that is: strata that parts lack, and the deviation of shares."""
    total = np.maximum(counts.sum(0), 1)
    order = rng.permutation(len(counts))
    order = order[np.argsort(-np.std(counts[order], axis=1), kind="stable")]
    filled = np.zeros((len(shares), counts.shape[1]))  # 1 where a part has all of its share
    first, second = filled.sum(0), (filled**2).sum(0)
    left = (counts > 0).sum(0)  # groups of each stratum that part 0 has or may still get
    parts = np.zeros(len(counts), dtype=np.int64)
    for group in order:
        added = counts[group] / total / shares[:, None]
        squares = second + 2 * filled * added + added**2
        deviations = np.sqrt(np.maximum(squares / len(shares) - ((first + added) / len(shares)) ** 2, 0)).mean(1)
        inside = counts[group] > 0
        part = 0 if spare_last and (left[inside] <= 1).any() else int(np.argmin(np.round(deviations, 12)))
        left = left - inside if part else left
        first, second = first + added[part], squares[part]
        filled[part] += added[part]
        parts[group] = part
    return parts, (float((filled == 0).sum()), float(filled.std(0).mean()))
