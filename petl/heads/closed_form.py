"""Ridge regression, linear discriminant analysis and class means as linear classifiers, and the best by leave-one-out."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from petl.evidence.intervals import standard_error
from petl.evidence.leave_one_out import direction_sums, prototypes, ridge, valid
from petl.evidence.principal_axes import parts
from petl.heads.discriminant import lda_head
from petl.heads.linear_head import LinearHead, calibrated, mixed, settled

CLEARLY = 2.0  # standard errors by which a single head has to be better than the mean of heads


def ridge_head(x: Tensor, y: Tensor, classes: int, weights: Tensor | None = None) -> LinearHead:
    """Returns ridge regression on one-hot targets, its penalty chosen by leave-one-out (`petl.evidence.leave_one_out.ridge`).

    ``weights`` [N] says how much each image counts.
    """
    fitted = ridge(x, y, classes, weights=weights)
    return settled("ridge", (fitted.weight, fitted.bias, fitted.left_out), y)


def prototype_head(x: Tensor, y: Tensor, classes: int) -> LinearHead:
    """Returns the nearest class mean by cosine, of features centred on their mean.

    It is linear: the length of an image, by which a cosine divides, changes no order. Scores are the cosines times that length.
    """
    left_out = prototypes(x, y, classes)
    x, y = valid(x, y, classes)
    mean, sums = direction_sums(x, y, classes)
    for part in parts(len(x)):
        left_out[part] *= (x[part].double() - mean).norm(dim=1, keepdim=True)
    weight = F.normalize(sums, dim=1)
    return settled("prototypes", (weight, -weight @ mean, left_out), y)


HEADS: dict[str, Callable[[Tensor, Tensor, int], LinearHead]] = {
    "prototypes": prototype_head,  # the first: with one image a class, where nothing can be left out, it is the best
    "lda": lda_head,
    "ridge": ridge_head,
}


def best_head(x: Tensor, y: Tensor, classes: int, weights: Tensor | None = None) -> LinearHead:
    """Returns the best calibrated head by leave-one-out: the mean of several, or one of them where that is clearly better.

    Left-out accuracies of few images vary more than the heads differ, so the largest of them is a poor choice: it lost 0.3 to
    0.8 points to the mean of the calibrated heads (Lite0, two datasets, 5 and 20 images a class, 24 draws, standard errors of
    0.2). So the best is the mean of all three, or of LDA and ridge, whichever has the lower left-out cross-entropy, unless the
    left-out accuracy of a single head is more than two standard errors (paired) above it. With one image a class, it is the
    class means.

    Args:
        x: Features, float [N, D].
        y: Class numbers, int64 [N].
        classes: C, the number of classes; some may have no images.
        weights: How much each image counts [N], in ridge regression and in the calibration.

    Raises:
        ValueError: shapes don't fit, a number is not finite, or there are fewer than two images.

    >>> x = torch.eye(3).repeat(4, 1) + 0.1 * torch.rand(12, 3, generator=torch.Generator().manual_seed(0))
    >>> best_head(x, torch.arange(12) % 3, 3).accuracy(torch.arange(12) % 3)
    1.0
    """
    x, y = valid(x, y, classes)
    if int(torch.bincount(y).max()) == 1:
        return fitted_head(x, y, classes, "prototypes")
    singles = [fitted_head(x, y, classes, kind, weights) for kind in HEADS]
    means = [mixed(singles, y, weights), mixed(singles[1:], y, weights)]
    best = chosen = min(means, key=lambda head: head.loss(y, weights))
    for head in singles:
        gaps = head.hits(y) - best.hits(y)
        if float(gaps.mean()) > CLEARLY * standard_error(gaps) and head.accuracy(y) > chosen.accuracy(y):
            chosen = head
    return chosen


def fitted_head(x: Tensor, y: Tensor, classes: int, kind: str, weights: Tensor | None = None) -> LinearHead:
    """Returns the calibrated head of this kind: a name in ``HEADS``, or "auto" for `best_head`.

    Equal calls give equal bits. The scores of a softmax are calibrated on left-out images (`calibrated`).

    >>> x, y = torch.eye(3).repeat(4, 1), torch.arange(12) % 3
    >>> fitted_head(x, y, 3, "lda").weight.shape
    torch.Size([3, 3])
    """
    if kind == "auto":
        return best_head(x, y, classes, weights)
    head = ridge_head(x, y, classes, weights) if kind == "ridge" else HEADS[kind](x, y, classes)
    return calibrated(head, y.long(), weights)
