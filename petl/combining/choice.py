"""Chooses weights on held-out images: towards the base, between two deltas, a greedy soup, or one scale for many tasks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from petl.evidence.intervals import accuracy_error, standard_error

LINE = tuple(number / 10 for number in range(11))
SCALES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # of the even weights, for different tasks
Hits = list[Tensor]  # for each task, 1.0 for each held-out image that is right [N]


@dataclass(frozen=True)
class TriedWeights:
    """Weights that were tried on held-out images.

    ``accuracy`` is the mean over tasks, ``error`` its standard error; ``against_even`` how much better it is than the weights
    that nobody chose, and ``against_even_error`` the paired standard error of that. ``tasks`` has the accuracy of each task.
    """

    weights: list[float]
    accuracy: float
    error: float
    against_even: float
    against_even_error: float
    tasks: list[float]


@dataclass(frozen=True)
class Chosen:
    """The weights with the highest accuracy on ``images`` held-out images (of ties those nearest to even), and the curve."""

    weights: list[float]
    even: list[float]
    images: int
    curve: list[TriedWeights]


def choose_weights(
    count: int, even: Sequence[float], measure: Callable[[Sequence[float]], Hits], *, one_task: bool
) -> Chosen:
    """Tries weights for ``count`` deltas; ``measure`` returns the hits of given weights, ``even`` are those that nobody chose."""
    tried: dict[tuple[float, ...], Hits] = {}

    def hits(weights: Sequence[float]) -> Hits:
        key = tuple(weights)
        if key not in tried:
            tried[key] = measure(weights)
        return tried[key]

    hits(even)
    if not one_task:
        for scale in SCALES:
            hits([scale * weight for weight in even])
    elif count <= 2:
        for part in LINE:
            hits([part] if count == 1 else [1 - part, part])
    else:
        _greedy_soup(count, hits)
    curve = [_candidate(weights, found, tried[tuple(even)]) for weights, found in tried.items()]
    best = max(curve, key=lambda one: (round(one.accuracy, 12), -_distance(one.weights, even)))
    return Chosen(best.weights, [*even], sum(len(part) for part in tried[tuple(even)]), _sorted(curve))


def _greedy_soup(count: int, hits: Callable[[Sequence[float]], Hits]) -> None:
    """Tries each delta, then adds the next best to the mean as long as that isn't worse (Wortsman et al., arXiv:2203.05482)."""

    def mean_of(members: Sequence[int]) -> list[float]:
        return [1 / len(members) if number in members else 0.0 for number in range(count)]

    singles = sorted(range(count), key=lambda number: -_mean_accuracy(hits(mean_of([number]))))
    soup = [singles[0]]
    for number in singles[1:]:
        if _mean_accuracy(hits(mean_of([*soup, number]))) >= _mean_accuracy(hits(mean_of(soup))):
            soup.append(number)


def _mean_accuracy(found: Hits) -> float:
    return float(torch.stack([part.mean() for part in found]).mean())


def _candidate(weights: Sequence[float], found: Hits, even: Hits) -> TriedWeights:
    gaps = [one - two for one, two in zip(found, even, strict=True)]
    errors = [accuracy_error(float(part.mean()), len(part)) for part in found]
    return TriedWeights(
        [*weights],
        _mean_accuracy(found),
        _joint(errors),
        _mean_accuracy(gaps),
        _joint([standard_error(part) for part in gaps]),
        [float(part.mean()) for part in found],
    )


def _joint(errors: Sequence[float]) -> float:
    return sum(error**2 for error in errors) ** 0.5 / len(errors)


def _distance(weights: Sequence[float], even: Sequence[float]) -> float:
    return sum((one - two) ** 2 for one, two in zip(weights, even, strict=True))


def _sorted(curve: Sequence[TriedWeights]) -> list[TriedWeights]:
    return sorted(copy.copy(curve), key=lambda one: (sum(one.weights), one.weights))
