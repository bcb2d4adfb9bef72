"""Metrics of a classification: plain values that print as a table and go into JSON as they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from petl.evidence.bootstrap import bootstrap_errors
from petl.evidence.intervals import accuracy_error, binomial_interval, recall_error, standard_error
from petl.measures.calibration import Calibration
from petl.objectives.measured import TaskMetrics, edge_errors, known

CLASSES_SHOWN = 30  # classes in a printed table
METRIC_NAMES = ("loss", "accuracy", "balanced_accuracy", "precision", "recall", "f1")
FEW_IMAGES = 100  # below, the exact interval of the accuracy is printed too


@dataclass(frozen=True)
class ClassMetrics:
    """One class: its images (how many have this label), and precision, recall and F1 (0 where they aren't defined)."""

    label: str
    images: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, repr=False)
class Metrics(TaskMetrics):
    """How well a model does on labelled images; prints as a table.

    loss is the mean cross-entropy in nats. accuracy is the share of right predictions, balanced_accuracy (the same as recall)
    the mean recall over the classes that occur. precision and f1 are means over the classes that occur or were predicted,
    as scikit-learn's "macro" has them. ``confusion[i][j]`` counts the images of class i for which class j was predicted.
    ``standard_errors`` has the standard error of each of these numbers, ``accuracy_interval`` the exact 95 % interval
    (Clopper and Pearson) of the accuracy, ``baseline`` what always answering the most frequent class reaches. ``calibration`` is
    there after ``petl.evaluate(..., calibrate=True)``: the temperature, and the calibration error before and after.
    """

    metric_names: ClassVar[tuple[str, ...]] = METRIC_NAMES
    loss: float
    accuracy: float
    balanced_accuracy: float
    precision: float
    recall: float
    f1: float
    classes: list[ClassMetrics]
    confusion: list[list[int]]
    accuracy_interval: tuple[float, float] | None = field(default=None, kw_only=True)
    calibration: Calibration | None = field(default=None, kw_only=True)

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            ("class", "images", "precision", "recall", "f1"),
            *((c.label, *_decimals(c)) for c in self.classes[:CLASSES_SHOWN]),
        ]

    def _head(self) -> str:
        head = super()._head()
        if self.accuracy_interval is None or self.images >= FEW_IMAGES:
            return head
        low, high = self.accuracy_interval
        return f"{head}  accuracy between {low:.3f} and {high:.3f} (95%)"

    def _rest(self) -> list[str]:
        rest = len(self.classes) - CLASSES_SHOWN
        calibrated = [str(self.calibration)] if self.calibration is not None else []
        return [*([f"and {rest} more classes in .classes"] if rest > 0 else []), *calibrated]


def _decimals(one: ClassMetrics) -> tuple[str, ...]:
    return (str(one.images), *(f"{value:.4f}" for value in (one.precision, one.recall, one.f1)))


def metrics_of(losses: Tensor, predicted: Tensor, targets: Tensor, labels: Sequence[str]) -> Metrics:
    """Returns the metrics for the loss, the predicted class and the class of each image [N], and the names of all classes.

    The confusion matrix is a count and everything else follows from it in five lines, so the core needs neither
    scikit-learn nor torchmetrics; the tests compare with scikit-learn.
    """
    count = len(labels)
    confusion = torch.bincount(targets * count + predicted, minlength=count * count).reshape(count, count)
    right, truly, predictions = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    precision, recall, f1 = _by_class(right, truly, predictions)
    occurs, counted = truly > 0, (truly + predictions) > 0
    balanced, correct, number = recall[occurs].mean().item(), int(right.sum()), len(targets)
    columns = zip(labels, truly.tolist(), precision.tolist(), recall.tolist(), f1.tolist(), strict=True)
    most = int(truly.argmax())
    return Metrics(
        loss=losses.double().mean().item(),
        accuracy=correct / number,
        balanced_accuracy=balanced,
        precision=precision[counted].mean().item(),
        recall=balanced,
        f1=f1[counted].mean().item(),
        classes=[ClassMetrics(*column) for column in columns],
        confusion=confusion.tolist(),
        accuracy_interval=binomial_interval(correct, number),
        images=number,
        standard_errors=known(_errors_by_name(losses, predicted, targets, confusion)),
        baseline={"accuracy": int(truly[most]) / number, "balanced_accuracy": 1 / int(occurs.sum())},
        baseline_rule=f"always {labels[most]}",
    ).with_per_image("accuracy", predicted == targets, targets)


def _by_class(right: Tensor, truly: Tensor, predictions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns precision, recall and F1 of each class, 0 where one isn't defined."""
    right = right.double()
    precision, recall = right / predictions.clamp(min=1), right / truly.clamp(min=1)
    return precision, recall, 2 * right / (truly + predictions).clamp(min=1)


def _errors_by_name(losses: Tensor, predicted: Tensor, targets: Tensor, confusion: Tensor) -> dict[str, float]:
    right, truly, count = confusion.diagonal(), confusion.sum(1), len(confusion)

    def precision_and_f1(drawn: Tensor) -> Tensor:
        one, two = predicted[drawn], targets[drawn]
        hits = torch.bincount(two[one == two], minlength=count)
        seen, answered = torch.bincount(two, minlength=count), torch.bincount(one, minlength=count)
        precision, _, f1 = _by_class(hits, seen, answered)
        counted = (seen + answered) > 0
        return torch.stack([precision[counted].mean(), f1[counted].mean()])

    parts = [recall_error(int(h), int(n)) for h, n in zip(right, truly, strict=True) if n]
    balanced = math.sqrt(sum(part**2 for part in parts)) / len(parts)
    precision, f1 = bootstrap_errors(precision_and_f1, len(targets))
    by_bootstrap = edge_errors({"precision": precision, "f1": f1}, len(targets))
    return {
        "loss": standard_error(losses),
        "accuracy": accuracy_error(int(right.sum()) / len(targets), len(targets)),
        "balanced_accuracy": balanced if len(targets) > 1 else math.nan,
        "recall": balanced if len(targets) > 1 else math.nan,
        **by_bootstrap,
    }
