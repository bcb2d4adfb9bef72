"""How far two scores of the same things agree on their order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def weighted_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Returns the weighted tau of two scores: 1 for the same order, -1 for the opposite; places near the top count more.

    A pair weighs 1 / (1 + its first one's place) + 1 / (1 + its second one's). It is scipy's ``weightedtau`` with its defaults
    (Vigna 2015), the mean over the places by either score, which the literature of transferability uses; some of its tables come
    from other variants. nan where one score is the same for all.

    >>> round(weighted_tau([0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.6, 0.7]), 3)
    0.813
    """
    a, b = (torch.tensor([float(value) for value in values], dtype=torch.float64) for values in (first, second))
    if len(a) != len(b) or not bool(torch.isfinite(torch.cat([a, b])).all()):
        raise ValueError(f"scores of {len(a)} and {len(b)} things; expected as many finite numbers in both")
    return (_tau(a, b, _places(a, b)) + _tau(a, b, _places(b, a))) / 2


def _places(values: Tensor, then: Tensor) -> Tensor:
    """Returns each one's place from the top, 0 first; equal ones by the other score."""
    order = sorted(range(len(values)), key=lambda i: (float(values[i]), float(then[i])), reverse=True)
    places = torch.empty(len(values), dtype=torch.float64)
    places[order] = torch.arange(len(values), dtype=torch.float64)
    return places


def _tau(a: Tensor, b: Tensor, places: Tensor) -> float:
    weight = 1 / (1 + places)
    weights = (weight[:, None] + weight[None]).fill_diagonal_(0)
    signs = [(v[:, None] - v[None]).sign() for v in (a, b)]
    both = [
        float((weights * one * other).sum()) for one, other in ((signs[0], signs[1]), (signs[0],) * 2, (signs[1],) * 2)
    ]
    return both[0] / math.sqrt(both[1] * both[2]) if both[1] * both[2] else math.nan
