"""Metrics of several labels for each image: average precision, area under the ROC curve, F1 at thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from petl.evidence.bootstrap import DRAWS, FEWEST_DRAWS, bootstrap_errors
from petl.evidence.intervals import standard_error
from petl.objectives.measured import TaskMetrics, edge_errors, known
from petl.objectives.metrics import CLASSES_SHOWN
from petl.objectives.ranked_labels import RankedLabels

MULTILABEL_NAMES = ("loss", "average_precision", "micro_average_precision", "auroc", "f1", "micro_f1")
MOST_SCORES = 5e6  # in all draws of a bootstrap


@dataclass(frozen=True)
class LabelMetrics:
    """One label: how many images have it, of how many where that is known, and its figures (nan where not defined)."""

    label: str
    positive: int
    images: int
    average_precision: float
    auroc: float
    f1: float
    threshold: float


@dataclass(frozen=True, repr=False)
class MultilabelMetrics(TaskMetrics):
    """How well a model finds the labels of images; prints as a table.

    loss is the mean binary cross-entropy in nats (without weights). average_precision and auroc are means over the labels for
    which they are defined, f1 over the labels that occur; "micro" figures take all pairs of image and label together. F1 is at
    ``thresholds`` on each label's probability; ``chosen_here`` says that these were chosen on the same images, which makes f1
    optimistic. Targets that aren't known (NaN) count nowhere. ``baseline`` is what a constant answer reaches.
    """

    metric_names: ClassVar[tuple[str, ...]] = MULTILABEL_NAMES
    loss: float
    average_precision: float
    micro_average_precision: float
    auroc: float
    f1: float
    micro_f1: float
    labels: list[LabelMetrics]
    thresholds: list[float]
    chosen_here: bool = field(default=False, kw_only=True)

    def _rows(self) -> list[tuple[str, ...]]:
        figures = ("average_precision", "auroc", "f1", "threshold")
        rows = [(m.label, f"{m.positive}/{m.images}", *(f"{getattr(m, n):.4f}" for n in figures)) for m in self.labels]
        return [("label", "positive", *figures), *rows[:CLASSES_SHOWN]]

    def _rest(self) -> list[str]:
        more = len(self.labels) - CLASSES_SHOWN
        said = "the thresholds were chosen on these images, so f1 is optimistic"
        return [*([f"and {more} more labels in .labels"] if more > 0 else []), *([said] if self.chosen_here else [])]

    def _more_of_row(self) -> dict[str, Any]:
        return {"thresholds": self.thresholds}


def multilabel_metrics(
    losses: Tensor,
    probabilities: Tensor,
    truth: Tensor,
    labels: Sequence[str],
    thresholds: Tensor,
    *,
    chosen_here: bool,
) -> MultilabelMetrics:
    """Returns the metrics for the loss [N], the probabilities [N, K] and the targets [N, K] (1, 0, or NaN) of all images."""
    called, found, read = probabilities.double() >= thresholds, truth == 1, ~truth.isnan()
    figures = _Figures(probabilities, truth, called)
    precision, area, f1, _ = figures(torch.ones(len(truth), dtype=torch.float64))
    positive, images = found.sum(0), read.sum(0)
    columns = (positive.tolist(), images.tolist(), precision.tolist(), area.tolist(), f1.tolist(), thresholds.tolist())
    right = ((called == found) & read).sum(1) / read.sum(1)
    return MultilabelMetrics(
        losses.double().mean().item(),
        *figures.means(torch.ones(len(truth), dtype=torch.float64)).tolist(),
        labels=[LabelMetrics(*column) for column in zip(labels, *columns, strict=True)],
        thresholds=thresholds.tolist(),
        chosen_here=chosen_here,
        images=len(truth),
        standard_errors=known({"loss": standard_error(losses), **_errors_of(figures, len(truth))}),
        baseline=_constant_scores(positive, images),
        baseline_rule="the same scores for every image; for f1, every label",
    ).with_per_image("share of right labels", right, truth)


def _errors_of(figures: _Figures, images: int) -> dict[str, float]:
    draws = int(min(DRAWS, max(FEWEST_DRAWS, MOST_SCORES // (images * figures.count))))

    def drawn_means(drawn: Tensor) -> Tensor:
        return figures.means(torch.bincount(drawn, minlength=images).double())

    errors = bootstrap_errors(drawn_means, images, draws=draws)
    return edge_errors(dict(zip(MULTILABEL_NAMES[1:], errors, strict=True)), images)


def _constant_scores(positive: Tensor, images: Tensor) -> dict[str, float]:
    """Returns what the same scores for every image reach: of how many images each label is positive [K] says it."""
    share = (positive / images.clamp(min=1))[positive > 0].double()
    f1 = 2 * share / (1 + share)
    return known({"average_precision": float(share.mean()), "auroc": 0.5, "f1": float(f1.mean())})


class _Figures:
    """The figures for any weights of the images, sorted once."""

    def __init__(self, probabilities: Tensor, truth: Tensor, called: Tensor) -> None:
        self.each = RankedLabels(probabilities, truth)
        self.all = RankedLabels(probabilities.reshape(-1, 1), truth.reshape(-1, 1))
        read = (~truth.isnan()).double()
        self.truth, self.called, self.count = truth.nan_to_num(0).double(), called.double() * read, truth.shape[1]

    def __call__(self, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns average precision, area and F1 of each label [K], and the three sums [3, K] that F1 is made of."""
        precision, area = self.each.curves(weights)
        sums = torch.stack([weights @ part for part in (self.called * self.truth, self.called, self.truth)])
        return precision, area, 2 * sums[0] / (sums[1] + sums[2]).clamp(min=1), sums

    def means(self, weights: Tensor) -> Tensor:
        precision, area, f1, sums = self(weights)
        micro, _ = self.all.curves(weights.repeat_interleave(self.count))
        hits, called, positive = sums.sum(1)
        occurs = sums[2] > 0
        macro = f1[occurs].mean() if bool(occurs.any()) else torch.tensor(torch.nan, dtype=torch.float64)
        return torch.stack(
            [precision.nanmean(), micro[0], area.nanmean(), macro, 2 * hits / (called + positive).clamp(min=1)]
        )
