"""Metrics and History: what evaluate and fit found, as plain values that print as tables and go into JSON as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from petl.tables import html_table, table

SHOWN = 30  # classes in a printed table
UP = ("accuracy", "balanced_accuracy", "precision", "recall", "f1")
NAMES = ("loss", *UP)
COLUMNS = ("epoch", "train_loss", "loss", "accuracy", "balanced_accuracy", "f1", "lr", "seconds")


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

    loss is the mean cross-entropy in nats. accuracy is the share of right answers, balanced_accuracy (the same as recall)
    the mean recall over the classes that occur. precision and f1 are means over the classes that occur or were answered,
    as scikit-learn's "macro" has them. ``confusion[i][j]``: images of class i that were taken for class j.
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
        """The numbers that are not per class, by name: what ``fit(monitor=...)`` can watch."""
        return {name: getattr(self, name) for name in NAMES}

    def __repr__(self) -> str:
        return "\n".join([self._head(), table(self._rows()), *self._rest()])

    def _repr_html_(self) -> str:
        return html_table(self._rows(), [self._head(), *self._rest()])

    def _head(self) -> str:
        return "  ".join(f"{name} {value:.4f}" for name, value in self.scalars.items())

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            ("class", "images", "precision", "recall", "f1"),
            *((c.label, *_decimals(c)) for c in self.classes[:SHOWN]),
        ]

    def _rest(self) -> list[str]:
        rest = len(self.classes) - SHOWN
        return [f"and {rest} more classes in .classes"] if rest > 0 else []


def _decimals(one: ClassMetrics) -> tuple[str, ...]:
    return (str(one.images), *(f"{value:.4f}" for value in (one.precision, one.recall, one.f1)))


def measured(losses: Tensor, predicted: Tensor, targets: Tensor, labels: Sequence[str]) -> Metrics:
    """From each image's loss, answer and class [N each], with the names of all classes.

    The confusion matrix is a count and everything else follows from it in five lines, so the core needs neither
    scikit-learn nor torchmetrics; the tests compare with scikit-learn.
    """
    count = len(labels)
    confusion = torch.bincount(targets * count + predicted, minlength=count * count).reshape(count, count)
    right, truly, answered = confusion.diagonal().double(), confusion.sum(1), confusion.sum(0)
    precision, recall = right / answered.clamp(min=1), right / truly.clamp(min=1)
    f1 = 2 * right / (truly + answered).clamp(min=1)
    occurs, seen = truly > 0, (truly + answered) > 0
    balanced = recall[occurs].mean().item()
    columns = zip(labels, truly.tolist(), precision.tolist(), recall.tolist(), f1.tolist(), strict=True)
    return Metrics(
        loss=losses.double().mean().item(),
        accuracy=(right.sum() / confusion.sum()).item(),
        balanced_accuracy=balanced,
        precision=precision[seen].mean().item(),
        recall=balanced,
        f1=f1[seen].mean().item(),
        classes=[ClassMetrics(*column) for column in columns],
        confusion=confusion.tolist(),
    )


@dataclass(repr=False)
class History:
    """What happened in each epoch; prints as a table.

    Each of ``rows`` has epoch (from 1), train_loss, lr (of the last layers, at the end of the epoch), seconds, and with
    validation data loss, accuracy, balanced_accuracy, precision, recall and f1. ``best`` is the row with the best
    ``monitor``; the last one where there is no validation data. ``stopped`` says that ``patience`` ended the training.
    ``road`` says how features of a frozen part were used, or why they were not where there was one to use.
    """

    monitor: str = "accuracy"
    rows: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    stopped: bool = False
    road: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: dict[str, Any]) -> bool:
        """Note an epoch; whether it is the best so far."""
        self.rows.append(row)
        better = self._beats(row)
        if better:
            self.best = row
        return better

    def _beats(self, row: dict[str, Any]) -> bool:
        if self.monitor not in row or self.monitor not in self.best:
            return self.monitor not in row or row[self.monitor] == row[self.monitor]  # a NaN is never best
        now, then = row[self.monitor], self.best[self.monitor]
        return now > then if self.monitor in UP else now < then

    @property
    def stale(self) -> int:
        """Epochs since the best one."""
        return len(self.rows) - self.best.get("epoch", 0)

    def __repr__(self) -> str:
        return "\n".join([table(self._cells()), *([self.road] if self.road else [])])

    def _repr_html_(self) -> str:
        return html_table(self._cells(), [self.road] if self.road else [])

    def _cells(self) -> list[tuple[str, ...]]:
        names = [name for name in COLUMNS if self.rows and name in self.rows[0]]
        return [(*names, ""), *((*(_cell(n, row[n]) for n in names), self._mark(row)) for row in self.rows)]

    def _mark(self, row: dict[str, Any]) -> str:
        return f"best {self.monitor}" if row is self.best and self.monitor in row else ""

    def line(self, row: dict[str, Any], epochs: int) -> str:
        """One epoch in one line, for log files and narrow terminals: ``epoch 3/10  train_loss 0.412  loss 0.38 ...``."""
        names = dict.fromkeys(("train_loss", "loss", "accuracy", self.monitor))
        cells = [f"{name} {row[name]:.3g}" for name in names if name in row]
        best = "best so far" if self._mark(row) else ""
        return "  ".join(filter(None, [f"epoch {row['epoch']}/{epochs}", *cells, f"{row['seconds']:.1f} s", best]))

    def told(self, row: dict[str, Any]) -> str:
        """An epoch in a few words: ``epoch 3 (accuracy 0.91)``."""
        figure = f" ({self.monitor} {row[self.monitor]:.5g})" if self.monitor in row else ""
        return f"epoch {row['epoch']}{figure}"


def _cell(name: str, value: float) -> str:
    return f"{value:.2g}" if name == "lr" else f"{value:.1f}" if name == "seconds" else f"{value:.5g}"
