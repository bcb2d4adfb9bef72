"""Whether the labels mean the same: only labelled target images can tell, and how many that takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from petl.evidence.comparison import paired_permutation
from petl.heads.closed_form import fitted_head
from petl.measures.enough_labels import LEAST
from petl.measures.label_shift import fitted_scaling
from petl.shifts.sides import Sides
from petl.shifts.told_apart import frequency_ratio

FEWEST_LABELS = 30  # labelled target images
DROP, POWER, ONE_SIDED = 0.1, 0.8416, 1.6449  # of accuracy; quantiles of the normal for 80 % power at 5 %


@dataclass(frozen=True)
class Concept:
    """Whether a classifier learned from target labels reads target images better than the source's classifier does.

    ``gap`` is by how many nats a label the source's cross-entropy is higher, each image judged by classifiers that haven't
    learned from it; ``p`` is that of a paired permutation test; ``images`` is how many there were.
    """

    gap: float
    p: float
    images: int
    changed: bool


def concept(sides: Sides, *, level: float, seed: int) -> Concept | None:
    """Returns the test of the labels' meaning; None without 30 labelled images with four of each of two classes."""
    y = sides.target_y
    if y is None or len(y) < FEWEST_LABELS:
        return None
    counts = torch.bincount(y, minlength=len(sides.classes))
    rows = counts[y] >= LEAST
    if int((counts >= LEAST).sum()) < 2 or int(rows.sum()) < FEWEST_LABELS:
        return None
    y, classes = y[rows], len(sides.classes)
    own = fitted_head(sides.z[rows], y, classes, "auto").left_out
    refitted = fitted_scaling(own, y).probabilities(own)
    gaps = _losses(_by_source(sides)[rows], y) - _losses(refitted, y)
    p = paired_permutation(gaps, torch.zeros_like(gaps), seed=seed)
    gap = float(gaps.mean())
    return Concept(gap, p, len(y), gap > 0 and p <= level)


def _by_source(sides: Sides) -> Tensor:
    """Returns the source classifier's probabilities [m, K] for target images, for the target's class frequencies."""
    scaling = fitted_scaling(sides.scores, sides.y)
    prior = scaling.probabilities(sides.scores).mean(0)
    shares = torch.bincount(sides.target_y, minlength=len(sides.classes)).double() + 1  # type: ignore[arg-type]  # labelled
    weighted = scaling.probabilities(sides.target_scores) * frequency_ratio(prior, shares / shares.sum())
    return weighted / weighted.sum(1, keepdim=True)


def _losses(probabilities: Tensor, y: Tensor) -> Tensor:
    return F.nll_loss(probabilities.clamp_min(1e-6).log(), y, reduction="none")


def labels_needed(accuracy: float) -> int:
    """Returns how many labelled target images show a drop of accuracy by 10 points, with 80 % power at 5 %; at least 30.

    >>> labels_needed(0.8), labels_needed(0.99)
    (99, 30)
    """
    variance = max(accuracy * (1 - accuracy), 0.01)
    return max(FEWEST_LABELS, math.ceil(((ONE_SIDED + POWER) / DROP) ** 2 * variance))
