"""Neural collapse: how tightly features lie around their class means, and how evenly the means lie apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NeuralCollapse:
    """Measures that are all 0 where features have collapsed to the corners of a simplex (arXiv:2008.08186).

    Attributes:
        nc1: ``tr(S_W pinv(S_B)) / C``: spread inside classes against that between their means.
        cdnv: Mean over pairs of classes of (variance + variance) / (2 squared distance of the means), arXiv:2112.15121.
        norms: Deviation over mean of the lengths of the centred class means.
        angles: Mean distance of the cosines between centred class means from -1 / (C - 1), which they have in a simplex.
        disagreement: Share of images for which the nearest class mean isn't the classifier's answer; None without answers.
        classes: C, the number of classes with images.
    """

    nc1: float
    cdnv: float
    norms: float
    angles: float
    disagreement: float | None
    classes: int


def neural_collapse(x: Tensor, y: Tensor, answers: Tensor | None = None) -> NeuralCollapse:
    """Returns the measures of features [N, D] of classes ``y`` [N]; ``answers`` [N] are a classifier's, in the same numbers.

    Classes of one image have no spread, which makes the first two too small. Means that all lie on one point give nan.

    Raises:
        ValueError: fewer than two classes.

    >>> neural_collapse(torch.eye(3).repeat(2, 1), torch.tensor([0, 1, 2, 0, 1, 2])).nc1
    0.0
    """
    there, y_there = torch.unique(y, return_inverse=True)
    classes = len(there)
    if classes < 2:
        raise ValueError(f"features of {classes} class; expected two classes or more")
    x = x.double()
    counts = torch.bincount(y_there).double()
    means = torch.zeros(classes, x.shape[1], dtype=torch.float64).index_add_(0, y_there, x) / counts[:, None]
    inside = x - means[y_there]
    centred = means - means.mean(0)
    norms = centred.norm(dim=1)
    unit = torch.nn.functional.normalize(centred, dim=1)
    cosines = (unit @ unit.T)[~torch.eye(classes, dtype=torch.bool)]
    return NeuralCollapse(
        _nc1(inside, centred),
        _cdnv(inside, means, y_there, counts),
        float(norms.std(unbiased=False) / norms.mean()) if float(norms.mean()) > 0 else math.nan,
        float((cosines + 1 / (classes - 1)).abs().mean()) if float(norms.mean()) > 0 else math.nan,
        _disagreement(x, means, there, answers),
        classes,
    )


def _nc1(inside: Tensor, centred: Tensor) -> float:
    """Returns ``tr(S_W pinv(S_B)) / C``, in the space of the class means: no D x D matrix is needed."""
    classes = len(centred)
    _, sizes, axes = torch.linalg.svd(centred / math.sqrt(classes), full_matrices=False)
    kept = sizes > sizes.max() * 1e-9
    if not kept.any() or float(sizes.max()) == 0:
        return math.nan
    along = (inside @ axes[kept].T).square().mean(0)  # the diagonal of S_W in the axes of S_B
    return float((along / sizes[kept].square()).sum() / classes)


def _cdnv(inside: Tensor, means: Tensor, y: Tensor, counts: Tensor) -> float:
    variances = torch.zeros(len(means), dtype=torch.float64).index_add_(0, y, inside.square().sum(1)) / counts
    squares = means.square().sum(1)
    apart = (squares[:, None] + squares - 2 * means @ means.T).clamp_min(0)
    one, two = torch.triu_indices(len(means), len(means), 1)
    return float(((variances[one] + variances[two]) / (2 * apart[one, two])).mean())


def _disagreement(x: Tensor, means: Tensor, numbers: Tensor, answers: Tensor | None) -> float | None:
    if answers is None:
        return None
    nearest = numbers[torch.cdist(x, means).argmin(1)]
    return float((nearest != answers).double().mean())
