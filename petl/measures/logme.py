"""LogME: how well linear regression explains labels by features, as the logarithm of the evidence.

You et al. 2021 (arXiv:2102.11005). Exact for any number of images and features: for fewer images than features, two
implementations that are in use leave out the term of the directions that no image has, and are off by tens.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

FIXED_POINT_STEPS = 11  # of the fixed point of alpha and beta
TINY = 1e-5


class Evidence(NamedTuple):
    """``value``: the evidence's logarithm, per image; ``alpha``: the precision of the weights, ``beta``: of the noise."""

    value: float
    alpha: float
    beta: float


def logme(x: Tensor, y: Tensor, classes: int) -> float:
    """Returns the mean over classes of the evidence that features [N, D] (and a constant) give for "is it this class?".

    More is better. A rotation of the features changes nothing. Classes without an image don't count.

    Args:
        x: Features [N, D]; y: class numbers [N].

    >>> x = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 0).long()
    >>> logme(x, y, 2) > logme(x, y[torch.arange(60).flip(0)], 2)
    True
    """
    x = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], 1)
    targets = torch.nn.functional.one_hot(y.long(), classes).double()
    found = evidences(x, targets[:, targets.any(0)])
    return sum(one.value for one in found) / len(found)


def evidences(x: Tensor, targets: Tensor) -> list[Evidence]:
    """Returns for each target its log density under the normal distribution with mean 0 and covariance x x'/alpha + 1/beta.

    alpha and beta are those that make it large, from a fixed point; the value is exact for these.

    Args:
        x: float64 [N, D]; targets: float64 [N, K].
    """
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    squares, parts = s.square(), (u.T @ targets).square()
    lengths = targets.square().sum(0)
    return [_evidence(squares, part, float(length), x.shape) for part, length in zip(parts.T, lengths, strict=True)]


def _evidence(squares: Tensor, parts: Tensor, length: float, shape: torch.Size) -> Evidence:
    """Returns the evidence of one target: ``parts`` are its squared coordinates along the left singular vectors."""
    (count, size), outside = shape, max(length - float(parts.sum()), 0.0)
    alpha = beta = 1.0

    def fit(ratio: float) -> tuple[float, float]:
        """Returns the squared length of the weights, and of what they leave unexplained."""
        weights = float((squares * parts / (ratio + squares).square()).sum())
        return weights, float((parts * (ratio / (ratio + squares)).square()).sum()) + outside

    for _ in range(FIXED_POINT_STEPS):
        effective = float((squares / (squares + alpha / beta)).sum())
        weights, rest = fit(alpha / beta)
        alpha, beta = effective / (weights + TINY), max(count - effective, 0.0) / (rest + TINY)
        alpha, beta = max(alpha, TINY**2), max(beta, TINY**2)
    weights, rest = fit(alpha / beta)
    value = size / 2 * math.log(alpha) + count / 2 * math.log(beta) - float((alpha + beta * squares).log().sum()) / 2
    value -= (size - len(squares)) / 2 * math.log(alpha)  # of directions that no image has
    value -= (beta * rest + alpha * weights + count * math.log(2 * math.pi)) / 2
    return Evidence(value / count, alpha, beta)
