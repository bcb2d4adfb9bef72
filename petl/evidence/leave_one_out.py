"""Leave-one-out predictions in closed form: what each image is taken for by a head that was fitted on all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from petl.evidence.principal_axes import parts, principal_axes, weighted_mean

PENALTIES = tuple(10.0 ** (power / 2) for power in range(-6, 13))  # for features whose mean variance is 1
NEIGHBOURS, TEMPERATURE = 20, 0.07  # of nearest neighbours: how many vote at most, and how their votes weigh


@dataclass(frozen=True)
class Ridge:
    """A ridge classifier: class scores ``x @ weight.T + bias``, and the scores that each image had when it was left out.

    ``weight`` [C, D], ``bias`` [C] and ``left_out`` [N, C] are float64; ``penalty`` was chosen by the squared error of
    ``left_out``.
    """

    weight: Tensor
    bias: Tensor
    left_out: Tensor
    penalty: float


def ridge(
    x: Tensor, y: Tensor, classes: int, penalties: Sequence[float] = PENALTIES, *, weights: Tensor | None = None
) -> Ridge:
    """Fits ridge regression on one-hot targets and returns it with its leave-one-out scores.

    Args:
        x: Features, float [N, D]. They are centred, and divided by one number, the root of their mean variance. (Dividing each
            column by its own deviation lost 7 points of accuracy at five images a class: EfficientNet-Lite0, two datasets.)
        y: Class numbers, int64 [N].
        classes: C, the number of classes.
        penalties: Tried in this order; the smallest leave-one-out squared error wins, the larger penalty where two are equal.
        weights: How much each image counts [N]; only their proportions matter. None: all alike.

    The scores of a left-out image follow from one decomposition (Allen 1974): with the smoother matrix H, its residual is
    ``(t - H t) / (1 - h)``. The scale of the features and the class frequencies are those of all images: without
    an image its class is rarer by one, and where features say nothing this alone would decide, always wrongly. The cost
    is O(N D min(N, D)); N x D numbers are read a part at a time (`petl.evidence.principal_axes`).

    Raises:
        ValueError: shapes don't fit, a number is not finite, or there are fewer than two images.
    """
    x, y = valid(x, y, classes)
    smoother = _Smoother(x, y, classes, weights)
    errors = smoother.errors(penalties)
    best = 0
    for number, error in enumerate(errors):
        equal = abs(error - errors[best]) <= 1e-12 * errors[best]
        if (equal and penalties[number] > penalties[best]) or (not equal and error < errors[best]):
            best = number
    weight, bias = smoother.head(penalties[best])
    return Ridge(weight, bias, smoother.all_left_out(penalties[best]), penalties[best])


class _Smoother:
    """Weighted ridge regression of one-hot targets on centred and scaled features, for any penalty."""

    def __init__(self, x: Tensor, y: Tensor, classes: int, weights: Tensor | None) -> None:
        count, size = x.shape
        self.x, self.y, self.classes = x, y, classes
        self.weights = torch.ones(count, dtype=torch.float64) if weights is None else weights.double()
        self.weights = self.weights * (count / self.weights.sum())
        self.mean = weighted_mean(x, self.weights)
        squares = sum(float((self.weights[p] @ (x[p].double() - self.mean).square()).sum()) for p in parts(count))
        largest = max(float(x[p].abs().max()) for p in parts(count))
        self.spread = max((squares / (count * size)) ** 0.5, 1e-12 * largest or 1.0)
        self.base = torch.zeros(classes, dtype=torch.float64).index_add_(0, y, self.weights) / count
        self.squares, self.axes = principal_axes(
            lambda part: self.weights[part].sqrt()[:, None] * self.rows(part), count, size
        )
        sums = torch.zeros(classes, size, dtype=torch.float64)
        for part in parts(count):
            sums.index_add_(0, y[part], self.weights[part][:, None] * self.rows(part))
        self.projected = self.axes @ sums.T

    def rows(self, part: slice) -> Tensor:
        return (self.x[part].double() - self.mean) / self.spread

    def targets(self, part: slice) -> Tensor:
        return torch.nn.functional.one_hot(self.y[part], self.classes).double()

    def left_out(self, part: slice, coordinates: Tensor, penalty: float) -> Tensor:
        """Returns the scores of the images of a part, each without itself."""
        targets, weights, count = self.targets(part), self.weights[part], len(self.x)
        shrunk = 1 / (self.squares + penalty)
        fitted = self.base + coordinates @ (shrunk[:, None] * self.projected)
        leverage = weights * (1 / count + coordinates.square() @ shrunk)  # an intercept is one more, unpenalised column
        exact = targets - (targets - fitted) / (1 - leverage).clamp_min(1e-12)[:, None]
        rarer = (weights / (count - weights).clamp_min(1e-12))[:, None]
        return exact + (targets - self.base) * rarer  # the class frequencies are those of all images again

    def errors(self, penalties: Sequence[float]) -> list[float]:
        """Returns the squared error of the left-out scores for each penalty."""
        sums = [0.0] * len(penalties)
        for part in parts(len(self.x)):
            coordinates, targets = self.rows(part) @ self.axes.T, self.targets(part)
            for number, penalty in enumerate(penalties):
                gaps = (self.left_out(part, coordinates, penalty) - targets).square().sum(1)
                sums[number] += float(self.weights[part] @ gaps)
        return sums

    def all_left_out(self, penalty: float) -> Tensor:
        return torch.cat([self.left_out(p, self.rows(p) @ self.axes.T, penalty) for p in parts(len(self.x))])

    def head(self, penalty: float) -> tuple[Tensor, Tensor]:
        """Returns weight [C, D] and bias [C] for features as they were given."""
        weight = (self.axes.T @ (self.projected / (self.squares + penalty)[:, None])).T / self.spread
        return weight, self.base - weight @ self.mean


def nearest_neighbours(
    x: Tensor, y: Tensor, classes: int, k: int | None = None, temperature: float = TEMPERATURE
) -> Tensor:
    """Returns leave-one-out class scores [N, C] of a k-nearest-neighbour classifier: votes of the k most similar other images.

    Similarity is the cosine; votes weigh ``exp(similarity / temperature)`` (Wu et al. 2018, arXiv:1805.01978). ``k`` is by
    default the size of the smallest class, at most 20. Rows are computed in parts, so that N x N numbers need not fit.
    """
    x, y = valid(x, y, classes)
    x = x.double()
    counts = torch.bincount(y, minlength=classes)
    k = min(k or min(NEIGHBOURS, int(counts[counts > 0].min())), len(x) - 1)
    unit = x / x.norm(dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    votes = torch.zeros(len(x), classes, dtype=x.dtype)
    for start in range(0, len(x), 1024):
        near = unit[start : start + 1024] @ unit.T
        near[torch.arange(len(near)), torch.arange(start, start + len(near))] = -torch.inf
        values, places = near.topk(k, dim=1)
        votes[start : start + 1024].scatter_add_(1, y[places], torch.softmax(values / temperature, dim=1))
    return votes


def prototypes(x: Tensor, y: Tensor, classes: int) -> Tensor:
    """Returns leave-one-out class scores [N, C] of the nearest class mean by cosine, of features centred on their mean.

    The class mean of an image's own class is computed without the image. A class of one image has no mean without it: its
    score is then -1, the lowest. The centre is the mean of all images.
    """
    x, y = valid(x, y, classes)
    mean, sums = direction_sums(x, y, classes)
    counts, unit_means = torch.bincount(y, minlength=classes), torch.nn.functional.normalize(sums, dim=1)
    scores = torch.empty(len(x), classes, dtype=torch.float64)
    for part in parts(len(x)):
        unit = torch.nn.functional.normalize(x[part].double() - mean, dim=1)
        others = torch.nn.functional.normalize(sums[y[part]] - unit, dim=1)
        own = torch.where(counts[y[part]] == 1, -1.0, (unit * others).sum(1))
        scores[part] = (unit @ unit_means.T).scatter(1, y[part][:, None], own[:, None])
    return scores


def direction_sums(x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Returns the mean of the features [D], and for each class the sum of their directions from there [C, D]."""
    mean = weighted_mean(x, torch.ones(len(x), dtype=torch.float64))
    sums = torch.zeros(classes, x.shape[1], dtype=torch.float64)
    for part in parts(len(x)):
        sums.index_add_(0, y[part], torch.nn.functional.normalize(x[part].double() - mean, dim=1))
    return mean, sums


def valid(x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Returns features [N, D], as they are if they are floating-point, and class numbers as int64 [N]; else a ValueError."""
    if x.ndim != 2 or y.shape != x.shape[:1] or len(x) < 2:
        raise ValueError(
            f"features {tuple(x.shape)} and classes {tuple(y.shape)}; expected [N, D] and [N] with N of 2 or more"
        )
    bad = sum(int((~torch.isfinite(x[part])).any(1).sum()) for part in parts(len(x)))
    if bad:
        raise ValueError(f"{bad} of {len(x)} images have features that are not finite")
    if y.is_floating_point() or int(y.min()) < 0 or int(y.max()) >= classes:
        raise ValueError(
            f"class numbers from {int(y.min())} to {int(y.max())}; expected whole numbers from 0 to {classes - 1}"
        )
    return x if x.is_floating_point() else x.double(), y.long()
