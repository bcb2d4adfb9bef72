"""Heads on groups of features of different scales, such as the outputs of all blocks of a model, and the choice among them.

Head2Toe (arXiv:2201.03529): the features of all layers side by side, of which those with the largest weights in a ridge
regression are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from petl.evidence.intervals import standard_error
from petl.evidence.leave_one_out import valid
from petl.evidence.principal_axes import parts
from petl.heads.closed_form import CLEARLY, fitted_head, ridge_head
from petl.heads.linear_head import LinearHead

FRACTIONS = (0.5, 0.25, 0.1)  # of the features
FOLDS = 5
MOST_IMAGES = 2000  # that the kept fraction is chosen on


def grouped_head(
    x: Tensor, y: Tensor, widths: Sequence[int], classes: int, *, kind: str = "auto", weights: Tensor | None = None
) -> LinearHead:
    """Returns a calibrated head on features [N, D] that are groups of these widths side by side.

    Each group is scaled to a variance of 1 in all (so that all groups count alike) or for each feature (so that wide groups
    count more), whichever has the lower left-out cross-entropy: neither is better everywhere (.749 and .737 on Fashion, .554 and
    .568 on Noto emoji; Lite0 at 96 px, all blocks, five images a class, 12 draws with standard errors of .006). The features to
    keep are chosen by `kept_features`; the others get weight 0. The head is for features as they were given.

    >>> x, y = torch.eye(3).repeat(6, 2), torch.arange(18) % 3
    >>> grouped_head(x, y, [3, 3], 3).weight.shape
    torch.Size([3, 6])
    """
    x, y = valid(x, y, classes)
    if len(widths) == 1:
        return fitted_head(x, y, classes, kind, weights)
    wide = torch.tensor([float(width) for width in widths]).repeat_interleave(torch.tensor([*widths])).double()
    scales = _scales(x, widths)
    heads = [_scaled_head(x, y, classes, (scales * s, kind, weights)) for s in (torch.ones_like(wide), wide.sqrt())]
    return min(heads, key=lambda head: head.loss(y, weights))


def _scaled_head(x: Tensor, y: Tensor, classes: int, how: tuple[Tensor, str, Tensor | None]) -> LinearHead:
    """Returns the head on scaled features, with weights for the features as they were; ``how`` is (scales [D], kind, weights)."""
    scales, kind, weights = how
    scaled = x * scales.to(x.dtype)
    kept = kept_features(scaled, y, classes)
    head = fitted_head(scaled[:, kept], y, classes, kind, weights)
    weight = torch.zeros(classes, x.shape[1], dtype=torch.float64)
    weight[:, kept] = head.weight * scales[kept]
    return replace(head, weight=weight)


def _scales(x: Tensor, widths: Sequence[int]) -> Tensor:
    """Returns for each feature one over the root of the summed variance of its group [D]; 1 in a group that doesn't vary."""
    total, squares = (torch.zeros(x.shape[1], dtype=torch.float64) for _ in range(2))
    for part in parts(len(x)):
        total += x[part].double().sum(0)
    for part in parts(len(x)):
        squares += (x[part].double() - total / len(x)).square().sum(0)
    sums = torch.stack([group.sum() / len(x) for group in squares.split([*widths])])
    return torch.where(sums > 0, sums, 1.0).rsqrt().repeat_interleave(torch.tensor([*widths]))


def kept_features(x: Tensor, y: Tensor, classes: int) -> Tensor:
    """Returns the numbers of the features [K] to keep: those with the largest weights in a ridge regression, in order.

    How many is decided by leaving out a fifth of the images at a time, and choosing the features on the rest. (Leaving out
    single images after a choice on all of them is no test of the choice: it says .80 for a tenth of Lite0's features, where new
    images of Fashion say .69, and .66 for all, where they say .73.) All are kept unless a fraction of them is right on more
    images by two standard errors.
    """
    everything = torch.arange(x.shape[1])
    chosen = _spread_out(y, MOST_IMAGES)
    x, y = x[chosen], y[chosen]
    folds = _folds(y)
    if int(torch.bincount(y).max()) < 2 or len(y) < 2 * FOLDS:
        return everything
    right = torch.stack([_hits(x, y, classes, folds == fold) for fold in range(FOLDS)]).sum(0)
    gains = right - right[0]
    clear = [float(g.mean()) > CLEARLY * standard_error(g) for g in gains]
    best = max(range(len(gains)), key=lambda number: float(right[number].mean()) if clear[number] or not number else -1)
    if not best:
        return everything
    size = max(int(FRACTIONS[best - 1] * x.shape[1]), 1)
    return _order(ridge_head(x, y, classes))[:size].sort().values


def _hits(x: Tensor, y: Tensor, classes: int, held: Tensor) -> Tensor:
    """Returns for all features and each fraction whether each held-out image is predicted right [1 + fractions, N], else 0."""
    right = torch.zeros(1 + len(FRACTIONS), len(y), dtype=torch.float64)
    whole = ridge_head(x[~held], y[~held], classes)
    order = _order(whole)
    right[0, held] = _right(whole, x[held], y[held])
    for number, fraction in enumerate(FRACTIONS, start=1):
        kept = order[: max(int(fraction * x.shape[1]), 1)]
        right[number, held] = _right(ridge_head(x[~held][:, kept], y[~held], classes), x[held][:, kept], y[held])
    return right


def _right(head: LinearHead, x: Tensor, y: Tensor) -> Tensor:
    return ((x.double() @ head.weight.T + head.bias).argmax(1) == y).double()


def _order(head: LinearHead) -> Tensor:
    """Returns the numbers of the features, the one with the largest weights first."""
    return head.weight.norm(dim=0).argsort(descending=True, stable=True)


def _folds(y: Tensor) -> Tensor:
    """Returns a fold number for each image [N]; the images of a class are spread over all folds."""
    folds = torch.empty_like(y)
    for number in y.unique():
        members = torch.where(y == number)[0]
        folds[members] = (torch.arange(len(members)) + int(number)) % FOLDS
    return folds


def _spread_out(y: Tensor, most: int) -> Tensor:
    """Returns the numbers of at most so many images, evenly from the images in order of their classes."""
    order = y.argsort(stable=True)
    step = max(len(y) / most, 1.0)
    return order[(torch.arange(min(len(y), most)) * step).long()].sort().values
