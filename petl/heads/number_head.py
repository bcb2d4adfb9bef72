"""Ridge regression of numbers: the linear layer of a regression in closed form, its penalty chosen by leave-one-out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from petl.evidence.intervals import standard_error
from petl.evidence.leave_one_out import PENALTIES
from petl.evidence.principal_axes import parts, principal_axes, weighted_mean


@dataclass(frozen=True)
class NumberHead:
    """A linear layer that was computed: ``x @ weight.T + bias`` are numbers in the targets' own units.

    ``weight`` [K, D] and ``bias`` [K] are float64; ``left_out`` [N, K] has what each image gets from the layer that was fitted on
    all others, NaN where its target isn't known; ``penalties`` has one for each target.
    """

    weight: Tensor
    bias: Tensor
    left_out: Tensor
    penalties: list[float]

    def mean_absolute_errors(self, targets: Tensor) -> Tensor:
        """Returns the mean over the targets of each left-out image's absolute error [N], NaN where none is known."""
        return (self.left_out - targets.double()).abs().nanmean(1)


def number_head(x: Tensor, targets: Tensor, penalties: Sequence[float] = PENALTIES) -> NumberHead:
    """Fits ridge regression of numbers, each target on the images where it is known.

    Args:
        x: Features, float [N, D]. They are centred, and divided by the root of their mean variance.
        targets: float [N, K], NaN where one isn't known.
        penalties: Tried for each target; the smallest squared error of left-out images wins, the larger where two are equal.

    What a left-out image gets follows from one decomposition (Allen 1974), the intercept fitted without it, too.

    Raises:
        ValueError: shapes don't fit, features aren't finite, or a target has fewer than two images.

    >>> x = torch.arange(8.0)[:, None]
    >>> head = number_head(x, 3 * x + 1)
    >>> bool(((x.double() @ head.weight.T + head.bias - (3 * x + 1)).abs() < 0.05).all())
    True
    """
    if x.ndim != 2 or targets.ndim != 2 or len(targets) != len(x):
        raise ValueError(f"features {tuple(x.shape)} and targets {tuple(targets.shape)}; expected [N, D] and [N, K]")
    if bad := sum(int((~torch.isfinite(x[part])).any(1).sum()) for part in parts(len(x))):
        raise ValueError(f"{bad} of {len(x)} images have features that are not finite")
    known = ~targets.isnan()
    left_out = torch.full(targets.shape, torch.nan, dtype=torch.float64)
    weight = torch.zeros(targets.shape[1], x.shape[1], dtype=torch.float64)
    bias, chosen = torch.zeros(targets.shape[1], dtype=torch.float64), [0.0] * targets.shape[1]
    for pattern in torch.unique(known, dim=1).T:  # targets that are known for the same images share a decomposition
        columns = [k for k in range(targets.shape[1]) if torch.equal(known[:, k], pattern)]
        fit = _Fit(x[pattern], targets[pattern][:, columns].double())
        for place, column in enumerate(columns):
            chosen[column], weight[column], bias[column], left_out[pattern, column] = fit.best(place, penalties)
    return NumberHead(weight, bias, left_out, chosen)


def mean_absolute_error_of(heads: Sequence[NumberHead], targets: Tensor) -> tuple[float, float]:
    """Returns the leave-one-out mean absolute error of the mean of several layers, and its standard error."""
    left_out = torch.stack([head.left_out for head in heads]).mean(0)
    errors = (left_out - targets.double()).abs().nanmean(1)
    return float(errors.mean()), standard_error(errors)


class _Fit:
    """Ridge regression of targets [N, K] on the same images, for any penalty."""

    def __init__(self, x: Tensor, targets: Tensor) -> None:
        self.x, self.targets, count = x, targets, len(x)
        if count < 2:
            raise ValueError(f"{count} images with a target that is known; expected two or more")
        self.mean = weighted_mean(x, torch.ones(count, dtype=torch.float64))
        squares = sum(float((x[part].double() - self.mean).square().sum()) for part in parts(count))
        largest = max(float(x[part].abs().max()) for part in parts(count))
        self.spread = max((squares / x.numel()) ** 0.5, 1e-12 * largest or 1.0)
        self.squares, self.axes = principal_axes(self._rows, count, x.shape[1])
        self.coordinates = torch.cat([self._rows(part) @ self.axes.T for part in parts(count)])
        self.base = targets.mean(0)

    def _rows(self, part: slice) -> Tensor:
        return (self.x[part].double() - self.mean) / self.spread

    def best(self, column: int, penalties: Sequence[float]) -> tuple[float, Tensor, Tensor, Tensor]:
        """Returns the penalty, and weight [D], bias and left-out numbers [N] of one target with it."""
        y, base = self.targets[:, column], self.base[column]
        sums = self.coordinates.T @ (y - base)
        tried = {penalty: self._left_out(y, base, sums, penalty) for penalty in penalties}
        errors = {penalty: float((found - y).square().sum()) for penalty, found in tried.items()}
        least = min(errors.values())
        penalty = max(p for p, error in errors.items() if error <= least * (1 + 1e-12))
        weight = self.axes.T @ (sums / (self.squares + penalty)) / self.spread
        return penalty, weight, base - weight @ self.mean, tried[penalty]

    def _left_out(self, y: Tensor, base: Tensor, sums: Tensor, penalty: float) -> Tensor:
        shrunk = 1 / (self.squares + penalty)
        fitted = base + self.coordinates @ (shrunk * sums)
        leverage = 1 / len(y) + self.coordinates.square() @ shrunk  # an intercept is one more, unpenalised column
        return y - (y - fitted) / (1 - leverage).clamp_min(1e-12)
