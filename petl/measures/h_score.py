"""The H-score: how far the classes' mean features lie apart, as measured by the features' own spread."""

from __future__ import annotations

import torch
from torch import Tensor

NEGLIGIBLE_VARIANCE = 1e-12  # of the largest variance: what is smaller is rounding


def h_score(x: Tensor, y: Tensor, classes: int, shrinkage: float | None = None) -> float:
    """Returns the regularised H-score: tr(S_a^-1 (1 - a) B), S_a the shrunk covariance, B that of the classes' means.

    Between 0 and C - 1 for C classes; with fewer images than features it comes near C - 1 whatever the features are. Bao et al.
    2019; the shrinkage is Ibrahim et al.'s (2021, arXiv:2110.06893). A rotation of the features changes nothing.

    Args:
        x: Features [N, D]; y: class numbers [N].
        shrinkage: a, from 0 to 1; None: that of Ledoit and Wolf.

    >>> y = torch.arange(300) % 3
    >>> round(h_score(torch.nn.functional.one_hot(y).float(), y, 3, shrinkage=0.0), 6)
    2.0
    """
    x, y, count = x.double(), y.long(), len(x)
    x = x - x.mean(0)
    amount = ledoit_wolf(x) if shrinkage is None else shrinkage
    _, s, axes = torch.linalg.svd(x, full_matrices=False)
    variances = s.square() / count
    seen = variances > NEGLIGIBLE_VARIANCE * variances.max().clamp_min(torch.finfo(torch.float64).tiny)
    spread = (1 - amount) * variances[seen] + amount * float(variances.sum()) / x.shape[1]
    counts = torch.bincount(y, minlength=classes).double()
    means = torch.zeros(classes, x.shape[1], dtype=torch.float64).index_add_(0, y, x) / counts.clamp_min(1)[:, None]
    between = (counts / count) @ (means @ axes[seen].T).square()
    return float((1 - amount) * (between / spread).sum())


def ledoit_wolf(x: Tensor) -> float:
    """Returns the share of the identity in the covariance of centred rows [N, D] (Ledoit and Wolf 2004), 0 to 1."""
    count, size = x.shape
    gram = x @ x.T if count <= size else x.T @ x
    squared = float(gram.square().sum()) / count**2  # of the entries of the covariance
    mean = float(x.square().sum()) / count / size
    noise = (float(x.square().sum(1).square().sum()) / count - squared) / (size * count)
    distance = (squared - size * mean**2) / size
    noise = min(noise, distance)
    return 0.0 if noise <= 0 or distance <= 0 else noise / distance
