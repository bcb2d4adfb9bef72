"""What is told of the winner: its score on images that chose nothing, beside what it has to beat there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petl.data.inputs import as_loader
from petl.data.replacements import marking_unreadable
from petl.data.samples import sample
from petl.evidence.intervals import accuracy_error, standard_error
from petl.evidence.leave_one_out import ridge
from petl.extraction.image_batches import images_and_any_targets, unreadable_rows
from petl.objectives.measured import TaskMetrics, per_image_of
from petl.trials.choosing import gap_of
from petl.trials.parts import Parts

PIXEL_SIDE, MOST_PIXELS = 8, 2000  # the small pictures, and how many of them are read
ACCURACY = "accuracy"


@dataclass(frozen=True)
class Told:
    """A score on images that chose nothing: the mean of ``images`` scores, and its standard error."""

    accuracy: float
    error: float
    images: int


@dataclass(frozen=True)
class Baseline:
    """What the winner has to beat: its score on the same images, and how far the winner is above it, with the paired error."""

    name: str
    accuracy: float
    error: float
    gain: float
    gain_error: float

    @property
    def beaten(self) -> bool:
        """Returns whether the winner is above it by more than two standard errors."""
        return self.gain > 2 * self.gain_error and self.gain > 0

    @property
    def said(self) -> str:
        """Returns the same in words, also where the winner is below.

        >>> Baseline("raw pixels", 0.71, 0.02, -0.08, 0.03).said
        'WORSE by more than two standard errors'
        """
        if abs(self.gain) <= 2 * self.gain_error or not self.gain:
            return "no difference that these images show"
        return f"{'better' if self.gain > 0 else 'WORSE'} by more than two standard errors"


def told_of(scores: Tensor, measure: str) -> Told:
    """Returns the mean score with its standard error; where all images are right, or all wrong, that of the exact interval.

    >>> told_of(torch.tensor([1.0, 0.0, 1.0, 1.0]), "accuracy")
    Told(accuracy=0.75, error=0.25, images=4)
    """
    mean, count = float(scores.double().mean()), len(scores)
    error = accuracy_error(mean, count) if measure == ACCURACY else standard_error(scores)
    return Told(mean, error, count)


def baseline(name: str, winner: Tensor, other: Tensor, measure: str) -> Baseline:
    """Returns how far the winner's scores [N] are above others on the same images."""
    found, (gain, error) = told_of(other, measure), gap_of(winner, other)
    return Baseline(name, found.accuracy, found.error, gain, error)


def chance_of(metrics: TaskMetrics) -> float | None:
    """Returns the score of the answer that needs no image, such as the most frequent class; None where there is none."""
    measure = per_image_of(metrics).what
    name = measure.removesuffix(", negated").replace(" ", "_")
    value = metrics.baseline.get(name)
    return None if value is None else -float(value) if measure.endswith(", negated") else float(value)


def raw_pixel_scores(model: nn.Module, parts: Parts) -> Tensor | None:
    """Returns whether each told image [N] is right by a ridge classifier of 8 x 8 pixels; None where images can't be compared."""
    learnt = [pixel_rows(model, sample(val, MOST_PIXELS // len(parts.folds))) for _, val in parts.folds]
    x, y = (torch.cat(column) for column in zip(*learnt, strict=True))
    told, truth = pixel_rows(model, parts.told)
    if told.shape[1] != x.shape[1]:
        return None
    head = ridge(x, y, parts.outputs)
    return ((told.double() @ head.weight.T + head.bias).argmax(1) == truth).double()


def pixel_rows(model: nn.Module, dataset: Any) -> tuple[Tensor, Tensor]:
    """Returns each readable image of a dataset as 8 x 8 pixels in one row, and its class."""
    rows, classes = [], []
    with marking_unreadable(dataset):
        for batch in as_loader(dataset, model, batch_size=64):
            images, targets = images_and_any_targets(batch, model)
            read = ~unreadable_rows(images, targets)
            rows.append(F.adaptive_avg_pool2d(images[read].float().cpu(), PIXEL_SIDE).flatten(1))
            classes.append(targets[read].cpu())  # type: ignore[index]  # they were read before
    return torch.cat(rows), torch.cat(classes)
