"""Temperature scaling: one number that makes the confidences of a classifier's softmax fit (arXiv:1706.04599)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from petl.evidence.golden_section import lowest

COLDEST, HOTTEST = 1e-2, 1e2  # temperatures
SEARCH_STEPS = 50  # of the search: the interval shrinks to 4e-11 of itself


def fitted_temperature(scores: Tensor, y: Tensor) -> float:
    """Returns the temperature T for which ``softmax(scores / T)`` makes the classes ``y`` [N] likeliest; scores are [N, K].

    Above 1 the classifier was too sure. N images that are all right are no reason to be surer than N + 1 of N + 2, so that
    share is the target (Platt 1999). The result is between 0.01 and 100.

    >>> y = torch.arange(100) % 2
    >>> sure = F.one_hot(torch.where(torch.arange(100) < 80, y, 1 - y), 2) * 40.0
    >>> round(40 / fitted_temperature(sure, y), 1)  # the logit of .8
    1.4
    """
    scores = scores.double()
    smoothing = 1 / (len(y) + 2)

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(scores / math.exp(log_temperature), y.long(), label_smoothing=smoothing))

    return math.exp(lowest(loss, math.log(COLDEST), math.log(HOTTEST), steps=SEARCH_STEPS))


def cross_fitted(scores: Tensor, y: Tensor, *, folds: int = 5, seed: int = 0) -> Tensor:
    """Returns scores / T [N, K], where each image's temperature was fitted on the other folds."""
    generator = torch.Generator().manual_seed(seed)
    fold = torch.randperm(len(y), generator=generator) % folds
    found = scores.double().clone()
    for number in range(folds):
        here = fold == number
        if bool(here.any()) and not bool(here.all()):
            found[here] /= fitted_temperature(scores[~here], y[~here])
    return found
