"""Metrics: how well a model does on labelled images, as plain values that print as a table and go into JSON as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from petl.tables import html_table, table

CLASSES_SHOWN = 30  # classes in a printed table
HIGHER_IS_BETTER = ("accuracy", "balanced_accuracy", "precision", "recall", "f1")
METRIC_NAMES = ("loss", *HIGHER_IS_BETTER)


@dataclass(frozen=True)
class ClassMetrics:
    """One class: its images (how many have this label), and precision, recall and F1 (0 where they aren't defined)."""

    label: str
    images: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, repr=False)
class Metrics:
    """How well a model does on labelled images; prints as a table.

    loss is the mean cross-entropy in nats. accuracy is the share of right predictions, balanced_accuracy (the same as recall)
    the mean recall over the classes that occur. precision and f1 are means over the classes that occur or were predicted,
    as scikit-learn's "macro" has them. ``confusion[i][j]`` counts the images of class i for which class j was predicted.
    """

    loss: float
    accuracy: float
    balanced_accuracy: float
    precision: float
    recall: float
    f1: float
    classes: list[ClassMetrics]
    confusion: list[list[int]]

    @property
    def scalars(self) -> dict[str, float]:
        """Returns the numbers that are not per class, by name: what ``fit(monitor=...)`` can watch."""
        return {name: getattr(self, name) for name in METRIC_NAMES}

    def __repr__(self) -> str:
        return "\n".join([self._head(), table(self._rows()), *self._rest()])

    def _repr_html_(self) -> str:
        return html_table(self._rows(), [self._head(), *self._rest()])

    def _head(self) -> str:
        return "  ".join(f"{name} {value:.4f}" for name, value in self.scalars.items())

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            ("class", "images", "precision", "recall", "f1"),
            *((c.label, *_decimals(c)) for c in self.classes[:CLASSES_SHOWN]),
        ]

    def _rest(self) -> list[str]:
        rest = len(self.classes) - CLASSES_SHOWN
        return [f"and {rest} more classes in .classes"] if rest > 0 else []


def _decimals(one: ClassMetrics) -> tuple[str, ...]:
    return (str(one.images), *(f"{value:.4f}" for value in (one.precision, one.recall, one.f1)))


def metrics_of(losses: Tensor, predicted: Tensor, targets: Tensor, labels: Sequence[str]) -> Metrics:
    """Returns the metrics for the loss, the predicted class and the class of each image [N], and the names of all classes.

    The confusion matrix is a count and everything else follows from it in five lines, so the core needs neither
    scikit-learn nor torchmetrics; the tests compare with scikit-learn.
    """
    count = len(labels)
    confusion = torch.bincount(targets * count + predicted, minlength=count * count).reshape(count, count)
    right, truly, predictions = confusion.diagonal().double(), confusion.sum(1), confusion.sum(0)
    precision, recall = right / predictions.clamp(min=1), right / truly.clamp(min=1)
    f1 = 2 * right / (truly + predictions).clamp(min=1)
    occurs, counted = truly > 0, (truly + predictions) > 0
    balanced = recall[occurs].mean().item()
    columns = zip(labels, truly.tolist(), precision.tolist(), recall.tolist(), f1.tolist(), strict=True)
    return Metrics(
        loss=losses.double().mean().item(),
        accuracy=(right.sum() / confusion.sum()).item(),
        balanced_accuracy=balanced,
        precision=precision[counted].mean().item(),
        recall=balanced,
        f1=f1[counted].mean().item(),
        classes=[ClassMetrics(*column) for column in columns],
        confusion=confusion.tolist(),
    )
