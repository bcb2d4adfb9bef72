"""How far images are from those that a model's norm layers know: by the mean and variance of each channel."""

from __future__ import annotations

import torch
from torch import Tensor


def norm_gap(mean: Tensor, variance: Tensor, known_mean: Tensor, known_variance: Tensor, eps: float = 0.0) -> float:
    """Returns the mean over channels of ``((m - k) / s)^2 + ln(t / s)^2``: m and t of the images, k and s the known ones.

    All four are [C]; s and t are deviations, the roots of the variances with ``eps`` added, as a BatchNorm has it. The gap is 0
    where the images have the known mean and variance in every channel; it is 1 where all channels are off by one deviation, or
    e times as wide. A channel in which the known deviation and that of the images are both below 1e-12 counts by its mean alone.

    >>> norm_gap(torch.zeros(2), torch.ones(2), torch.zeros(2), torch.ones(2))
    0.0
    >>> norm_gap(torch.ones(2), torch.ones(2), torch.zeros(2), torch.ones(2))
    1.0
    """
    wide, known_wide = (
        (part.double().clamp_min(0) + eps).sqrt().clamp_min(1e-12) for part in (variance, known_variance)
    )
    shift = (mean.double() - known_mean.double()) / known_wide
    return float((shift.square() + (wide / known_wide).log().square()).mean())


def feature_gap(x: Tensor, known: Tensor) -> float:
    """Returns the `norm_gap` of features ``x`` [N, D] to ``known`` [M, D], of which columns that don't vary are left out.

    It says how far two sets of images are apart for a model of any kind, and is above 0 for parts of one set: about 1/N + 1/M
    for the means and as much for the deviations.
    """
    varies = known.double().var(0) > 0
    if len(x) < 2 or len(known) < 2 or not varies.any():
        return float("nan")
    new, old = x.double()[:, varies], known.double()[:, varies]
    floor = float(old.var(0).mean()) * 1e-6  # a column that hardly varies would outweigh all others
    return norm_gap(new.mean(0), new.var(0), old.mean(0), old.var(0), eps=floor)


def thirds(gaps: list[float]) -> tuple[float, float, float]:
    """Returns the mean of the first, the middle and the last third of numbers in depth order; nan without any.

    >>> thirds([3.0, 2.0, 1.0, 1.0, 0.5, 0.5])
    (2.5, 1.0, 0.5)
    """
    if not gaps:
        return float("nan"), float("nan"), float("nan")
    values = torch.tensor(gaps, dtype=torch.float64)
    size = max(1, round(len(gaps) / 3))
    middle = values[size : len(gaps) - size] if len(gaps) > 2 else values
    return float(values[:size].mean()), float(middle.mean()), float(values[-size:].mean())
