"""Ridge regression, linear discriminant analysis and class means as linear classifiers, and the best of them by leave-one-out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from petl.evidence.leave_one_out import centred_directions, checked, prototypes, ridge

STEPS = 60  # of a search by golden section: the interval shrinks by 3e-13


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier that was computed, not trained: ``x @ weight.T + bias`` are class scores.

    ``weight`` [C, D], ``bias`` [C] and ``left_out`` [N, C] are float64. ``left_out`` holds the scores of each image by the
    classifier of the same kind that was fitted on all other images.
    """

    kind: str
    weight: Tensor
    bias: Tensor
    left_out: Tensor

    def accuracy(self, y: Tensor) -> float:
        """Returns the leave-one-out accuracy, averaged over the classes that ``y`` [N] has, so that each counts alike."""
        right = (self.left_out.argmax(1) == y).double()
        counts = torch.bincount(y, minlength=self.left_out.shape[1])
        per_class = (
            torch.zeros(len(counts), dtype=torch.float64).index_add_(0, y, right)[counts > 0] / counts[counts > 0]
        )
        return float(per_class.mean())


def ridge_head(x: Tensor, y: Tensor, classes: int) -> LinearHead:
    """Returns ridge regression on one-hot targets, its penalty chosen by leave-one-out (`petl.evidence.leave_one_out.ridge`)."""
    fitted = ridge(x, y, classes)
    return LinearHead("ridge", fitted.weight, fitted.bias, fitted.left_out)


def prototype_head(x: Tensor, y: Tensor, classes: int) -> LinearHead:
    """Returns the nearest class mean by cosine, of features centred on their mean: linear, as the norm of x changes no order."""
    left_out = prototypes(x, y, classes)
    x, y = checked(x, y, classes)
    weight = F.normalize(centred_directions(x, y, classes)[1], dim=1)
    return LinearHead("prototypes", weight, -weight @ x.mean(0), left_out)


def lda_head(x: Tensor, y: Tensor, classes: int) -> LinearHead:
    """Returns linear discriminant analysis with one shrunk covariance for all classes (arXiv:2402.04087).

    The inverse covariance is ``D [S + t I]^-1`` with S the scatter within classes and t its trace over N - 1. Classes count as
    equally frequent. The mean of few images is longer than the class's own by noise; its expected share is taken out of the
    bias, or classes with fewer images would lose (without that, leave-one-out says .43 where a test says .55: Lite0, five images
    a class). Images are left out exactly, by a rank-one change of S and a class mean, but for t and that noise, which stay those
    of all images. A class without images is never predicted.
    """
    x, y = checked(x, y, classes)
    counts = torch.bincount(y, minlength=classes).double()
    centre = x.mean(0)
    fitted = _Discriminant(x - centre, y, counts)
    weight = x.shape[1] * fitted.solved_means
    bias = x.shape[1] * (fitted.offsets(fitted.means, fitted.solved_means, counts)) - weight @ centre
    bias = torch.where(counts > 0, bias, bias.min() - 1e6 * (1 + weight.abs().amax()))
    left_out = x.shape[1] * torch.stack([fitted.without(image) for image in range(len(x))])
    return LinearHead("lda", weight, bias, torch.where(counts > 0, left_out, -torch.inf))


class _Discriminant:
    """The parts of linear discriminant analysis of centred features that scores and left-out scores are made of."""

    def __init__(self, x: Tensor, y: Tensor, counts: Tensor) -> None:
        self.x, self.y, self.counts = x, y, counts
        sums = torch.zeros(len(counts), x.shape[1], dtype=x.dtype).index_add_(0, y, x)
        self.means = sums / counts.clamp_min(1)[:, None]
        self.inner = x - self.means[y]  # what varies within classes
        _, s, vh = torch.linalg.svd(self.inner, full_matrices=False)
        shrink = float(s.square().sum()) / (len(x) - 1) or 1.0
        inside = 1 / (s.square() + shrink) - 1 / shrink

        def solve(rows: Tensor) -> Tensor:
            """Rows times ``(S + shrink I)^-1``."""
            return rows / shrink + ((rows @ vh.T) * inside) @ vh

        self.solved_means, self.solved_inner = solve(self.means), solve(self.inner)
        share = counts / (counts - 1).clamp_min(1)
        along = (self.inner * self.solved_inner).sum(1)
        self.gain = share[y] / (1 - share[y] * along).clamp_min(1e-12)
        several = counts[y] > 1
        noise = share[y] * along * (1 + self.gain * along)  # of one image around its class, in the metric without it
        self.noise = float(noise[several].mean()) if several.any() else 0.0

    def offsets(self, means: Tensor, solved: Tensor, counts: Tensor) -> Tensor:
        """Minus half of the squared length of each class mean, without what noise adds to it."""
        return (self.noise / counts.clamp_min(1) - (solved * means).sum(1)) / 2

    def without(self, image: int) -> Tensor:
        """Scores of an image by the classifier that has not seen it; -inf for its class if it was the only one."""
        row, label, inner, along = self.x[image], self.y[image : image + 1], self.inner[image], self.solved_inner[image]
        counts = self.counts - torch.nn.functional.one_hot(label[0], len(self.counts))
        if counts[label] < 1:
            scores = self.solved_means @ row + self.offsets(self.means, self.solved_means, self.counts)
            return scores.index_fill(0, label, -torch.inf)
        means = self.means.index_add(0, label, inner[None] / -counts[label])
        solved = self.solved_means.index_add(0, label, along[None] / -counts[label])
        solved = solved + self.gain[image] * (means @ along)[:, None] * along
        return solved @ row + self.offsets(means, solved, counts)


HEADS: dict[str, Callable[[Tensor, Tensor, int], LinearHead]] = {
    "prototypes": prototype_head,  # the first: with one image a class, where nothing can be left out, it is the best
    "lda": lda_head,
    "ridge": ridge_head,
}


def best_head(x: Tensor, y: Tensor, classes: int) -> LinearHead:
    """Returns the head of the three with the highest leave-one-out accuracy; of equal ones, the first in ``HEADS``.

    Args:
        x: Features, float [N, D].
        y: Class numbers, int64 [N].
        classes: C, the number of classes; some may have no images.

    Raises:
        ValueError: shapes don't fit, a number is not finite, or there are fewer than two images.

    >>> x = torch.eye(3).repeat(4, 1) + 0.1 * torch.rand(12, 3, generator=torch.Generator().manual_seed(0))
    >>> best_head(x, torch.arange(12) % 3, 3).accuracy(torch.arange(12) % 3)
    1.0
    """
    heads = [fit(x, y, classes) for fit in HEADS.values()]
    return max(heads, key=lambda head: head.accuracy(y))  # max takes the first of equal ones


def calibrated(head: LinearHead, y: Tensor) -> LinearHead:
    """Returns the head scaled by the factor for which the softmax of its left-out scores is most likely, given ``y`` [N].

    The order of the classes stays (temperature scaling, arXiv:1706.04599). A fresh classifier that starts from it starts
    calibrated. The factor is sought between 1e-3 and 1e3 times one over the spread of the scores.
    """
    known = torch.isfinite(head.left_out).all(1)
    scores, y = head.left_out[known], y[known]
    if not len(scores):
        return head
    spread = float((scores - scores.mean(1, keepdim=True)).square().mean().sqrt()) or 1.0
    factor = 10 ** _lowest(lambda power: float(F.cross_entropy(scores * 10**power / spread, y)), -3.0, 3.0) / spread
    return replace(head, weight=head.weight * factor, bias=head.bias * factor, left_out=head.left_out * factor)


def _lowest(value: Callable[[float], float], low: float, high: float) -> float:
    """Returns where a function with one valley is lowest, by golden section."""
    share = (5**0.5 - 1) / 2
    for _ in range(STEPS):
        left, right = high - share * (high - low), low + share * (high - low)
        low, high = (low, right) if value(left) <= value(right) else (left, high)
    return (low + high) / 2
