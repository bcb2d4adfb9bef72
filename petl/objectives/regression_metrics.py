"""Metrics of a regression: errors in the units of the targets, R2 and rank correlation, each with its standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from petl.evidence.bootstrap import DRAWS, FEWEST_DRAWS, bootstrap_errors
from petl.evidence.intervals import standard_error
from petl.objectives.measured import TaskMetrics, edge_errors, known
from petl.objectives.metrics import CLASSES_SHOWN

REGRESSION_NAMES = ("loss", "mean_absolute_error", "root_mean_squared_error", "r2", "spearman")
MOST_TARGETS = 4e6  # in all draws of a bootstrap


@dataclass(frozen=True)
class OutputMetrics:
    """One number that is predicted: its mean and standard deviation in the data, and how well it is predicted (in ``units``)."""

    label: str
    images: int
    mean: float
    deviation: float
    mean_absolute_error: float
    root_mean_squared_error: float
    r2: float
    spearman: float
    units: str = ""


@dataclass(frozen=True, repr=False)
class RegressionMetrics(TaskMetrics):
    """How well a model predicts numbers; prints as a table.

    Errors are in the units of the targets. r2 is the share of the variance that is explained, 0 for always answering the mean
    and negative below that; spearman is the rank correlation. With several outputs each figure is the mean over them, and
    ``outputs`` has them one by one. loss is the mean squared error, or the mean pinball loss of a quantile regression, whose
    ``coverage`` is the share of targets between the lowest and the highest quantile. Targets that aren't known (NaN) count
    nowhere. ``baseline`` is what always answering the mean of these images' targets reaches.
    """

    metric_names: ClassVar[tuple[str, ...]] = REGRESSION_NAMES
    loss: float
    mean_absolute_error: float
    root_mean_squared_error: float
    r2: float
    spearman: float
    outputs: list[OutputMetrics]
    coverage: float | None = field(default=None, kw_only=True)

    def _rows(self) -> list[tuple[str, ...]]:
        names = ("mean", "deviation", "mean_absolute_error", "root_mean_squared_error", "r2", "spearman")
        rows = [
            (f"{o.label} ({o.units})" if o.units else o.label, str(o.images), *(f"{getattr(o, n):.4g}" for n in names))
            for o in self.outputs
        ]
        return [("output", "images", *names), *rows[:CLASSES_SHOWN]]

    def _rest(self) -> list[str]:
        more = len(self.outputs) - CLASSES_SHOWN
        said = [] if self.coverage is None else [f"{self.coverage:.1%} of the targets are between the outer quantiles"]
        return [*([f"and {more} more in .outputs"] if more > 0 else []), *said]


def regression_metrics(
    losses: Tensor,
    predicted: Tensor,
    targets: Tensor,
    labels: Sequence[str],
    units: Sequence[str] = (),
    covered: Tensor | None = None,
) -> RegressionMetrics:
    """Returns the metrics for losses [N], predictions and targets [N, K], and whether each target [N, K] was covered."""
    predicted, targets = predicted.double(), targets.double()
    parts = [_figures_of(predicted[:, k], targets[:, k]) for k in range(targets.shape[1])]
    of_each = zip(labels, parts, [*units, *[""] * len(labels)], strict=False)
    absolute, read = (predicted - targets).abs().nanmean(1), ~targets.isnan()
    return RegressionMetrics(
        losses.double().mean().item(),
        *_means(predicted, targets).tolist(),
        outputs=[OutputMetrics(label, *part, units=unit) for label, part, unit in of_each],
        coverage=None if covered is None else float((covered & read).sum() / read.sum()),
        images=len(targets),
        standard_errors=known({"loss": standard_error(losses), **_errors_in_units(predicted, targets)}),
        baseline=_constant_answer(targets),
        baseline_rule="always the mean of these targets",
    ).with_per_image("mean absolute error, negated", -absolute, targets)


def _means(predicted: Tensor, targets: Tensor) -> Tensor:
    """Returns MAE, RMSE, R2 and Spearman [4], each the mean over the outputs for which it is defined."""
    rows = [_figures_of(predicted[:, k], targets[:, k])[3:] for k in range(targets.shape[1])]
    return torch.tensor(rows, dtype=torch.float64).nanmean(0)


def _errors_in_units(predicted: Tensor, targets: Tensor) -> dict[str, float]:
    draws = int(min(DRAWS, max(FEWEST_DRAWS, MOST_TARGETS // targets.numel())))
    found = bootstrap_errors(lambda drawn: _means(predicted[drawn], targets[drawn]), len(targets), draws=draws)
    errors = dict(zip(REGRESSION_NAMES[1:], found, strict=True))
    errors |= edge_errors({name: errors[name] for name in ("r2", "spearman")}, len(targets))
    if targets.shape[1] == 1:
        errors["mean_absolute_error"] = standard_error((predicted - targets).abs())
    return errors


def _constant_answer(targets: Tensor) -> dict[str, float]:
    """Returns what always answering the mean of the targets [N, K] reaches."""
    away = targets - targets.nanmean(0)
    root = away.square().nanmean(0).sqrt()
    return {
        "mean_absolute_error": float(away.abs().nanmean(0).nanmean()),
        "root_mean_squared_error": float(root.nanmean()),
        "r2": 0.0,
    }


def _figures_of(predicted: Tensor, targets: Tensor) -> tuple[int, float, float, float, float, float, float]:
    """Returns count, mean and deviation of the known targets [N], and MAE, RMSE, R2 and Spearman of the predictions."""
    read = ~targets.isnan()
    predicted, targets = predicted[read], targets[read]
    if not len(targets):
        return (0, *[math.nan] * 6)  # type: ignore[return-value]  # six floats
    gaps, centred = predicted - targets, targets - targets.mean()
    spread = float(centred.square().sum())
    r2 = 1 - float(gaps.square().sum()) / spread if spread > 0 else math.nan
    return (
        len(targets),
        float(targets.mean()),
        float(centred.square().mean().sqrt()),
        float(gaps.abs().mean()),
        float(gaps.square().mean().sqrt()),
        r2,
        _correlation(average_ranks(predicted), average_ranks(targets)),
    )


def average_ranks(values: Tensor) -> Tensor:
    """Returns the ranks of values [N], float64 from 1; equal values share the mean of their ranks."""
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts - 1) / 2)[place]


def _correlation(one: Tensor, other: Tensor) -> float:
    one, other = one - one.mean(), other - other.mean()
    norm = float(one.norm() * other.norm())
    return float(one @ other) / norm if norm > 0 else math.nan
