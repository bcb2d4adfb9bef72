"""A linear classifier that was computed from features, with the scores of each image when it was left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from petl.evidence.golden_section import lowest
from petl.evidence.intervals import accuracy_error, standard_error

STEPS = 40  # of a search by golden section: the interval shrinks to 4e-9 of itself


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier that was computed, not trained: ``x @ weight.T + bias`` are class scores.

    ``weight`` [C, D], ``bias`` [C] and ``left_out`` [N, C] are float64. ``left_out`` holds the scores of each image by the
    classifier of the same kind that was fitted on all other images; -inf for a class without images, and for the class of an
    image that is its only one.
    """

    kind: str
    weight: Tensor
    bias: Tensor
    left_out: Tensor

    def accuracy(self, y: Tensor) -> float:
        """Returns the leave-one-out accuracy, averaged over the classes that ``y`` [N] has, so that each counts alike."""
        return float(self.hits(y).mean())

    def error(self, y: Tensor) -> float:
        """Returns the standard error of `accuracy`."""
        hits = self.hits(y)
        return standard_error(hits) if 0 < float(hits.mean()) < 1 else accuracy_error(float(hits.mean()), len(y))

    def hits(self, y: Tensor) -> Tensor:
        """Returns 0 for each image that is taken for another class when it is left out, else a weight [N] with mean accuracy."""
        counts = torch.bincount(y, minlength=self.left_out.shape[1])
        right = (self.left_out.argmax(1) == y).double()
        return right * (len(y) / (counts > 0).sum()) / counts[y]

    def loss(self, y: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> float:
        """Returns the mean cross-entropy of the left-out scores, over images that are not alone in their class; 0 without any.

        ``smoothing`` is the share of the targets that is spread over all classes with images.
        """
        rows = self.comparable(y)
        logs = torch.log_softmax(self.left_out[rows], 1)
        known = torch.isfinite(logs)
        spread = -logs.masked_fill(~known, 0.0).sum(1) / known.sum(1)
        each = (1 - smoothing) * F.nll_loss(logs, y[rows], reduction="none") + smoothing * spread
        share = torch.ones_like(each) if weights is None else weights[rows].double()
        return float((each * share).sum() / share.sum()) if float(share.sum()) else 0.0

    def comparable(self, y: Tensor) -> Tensor:
        """Returns for each image whether its class is known without it, bool [N]."""
        return torch.isfinite(self.left_out.gather(1, y[:, None])[:, 0])

    def scaled(self, factor: float) -> LinearHead:
        """Returns the head with all scores multiplied by a factor above 0."""
        return replace(self, weight=self.weight * factor, bias=self.bias * factor, left_out=self.left_out * factor)


def settled(kind: str, parts: tuple[Tensor, Tensor, Tensor], y: Tensor) -> LinearHead:
    """Returns the head made of weight, bias and left-out scores, with what all kinds do alike for classes of no or one image.

    A class without images scores below the mean of the others on every image, so it is never predicted. Nothing is known of a
    class of one image without that image.
    """
    weight, bias, left_out = parts
    counts = torch.bincount(y, minlength=len(bias))
    there = counts > 0
    left_out = left_out.masked_fill(~there, -torch.inf)
    alone = (counts[y] == 1)[:, None] & F.one_hot(y, len(bias)).bool()
    if not there.all():
        margin = 1 + _spread(left_out)
        weight = torch.where(there[:, None], weight, weight[there].mean(0))
        bias = torch.where(there, bias, bias[there].mean() - margin)
    return LinearHead(kind, weight, bias, left_out.masked_fill(alone, -torch.inf))


def _spread(scores: Tensor) -> float:
    """Returns the deviation of the finite scores of an image around their mean, over all images."""
    known = torch.isfinite(scores)
    filled = scores.masked_fill(~known, 0.0)
    mean = filled.sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp_min(1)
    gaps = (filled - mean).masked_fill(~known, 0.0)
    return float(gaps.square().sum() / known.sum().clamp_min(1)) ** 0.5


def calibrated(head: LinearHead, y: Tensor, weights: Tensor | None = None) -> LinearHead:
    """Returns the head scaled by the factor for which the softmax of its left-out scores is most likely, given ``y`` [N].

    The order of the classes stays (temperature scaling, arXiv:1706.04599). A fresh classifier that starts from it starts
    calibrated. The factor is sought between 1e-3 and 1e3 times one over the spread of the scores. N images that are all right are
    no reason to be surer than N + 1 of N + 2, so that share is the target (Platt 1999). Images that are alone in their class say
    nothing; where all are, the spread becomes 1. ``weights`` [N] says how much each image counts.
    """
    spread = _spread(head.left_out) or 1.0
    if not bool(head.comparable(y).any()):
        return head.scaled(1 / spread)
    smoothing = 1 / (len(y) + 2)
    power = lowest(lambda power: head.scaled(10**power / spread).loss(y, weights, smoothing), -3.0, 3.0, steps=STEPS)
    return head.scaled(10**power / spread)


def mixed(heads: Sequence[LinearHead], y: Tensor, weights: Tensor | None = None) -> LinearHead:
    """Returns the mean of calibrated heads, calibrated: linear again, and its left-out scores are the mean of theirs."""
    count = len(heads)
    mean = LinearHead(
        " + ".join(head.kind for head in heads),
        torch.stack([head.weight for head in heads]).sum(0) / count,
        torch.stack([head.bias for head in heads]).sum(0) / count,
        sum((head.left_out for head in heads[1:]), heads[0].left_out) / count,
    )
    return calibrated(mean, y, weights)
