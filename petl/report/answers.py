"""What a model answers for the images of a report, and where it is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from petl.errors import PetlError
from petl.evidence.intervals import accuracy_error
from petl.evidence.leave_one_out import ridge
from petl.prediction.meaning import Meaning, description_of, meaning_of
from petl.report.images import ReportImages
from petl.report.model_passes import ModelPass
from petl.wrapping.lookup import record

TASK_OF_KIND = {"labels": "multilabel", "numbers": "regression"}  # of targets, where the model's record has none
MATRIX_CLASSES = 20  # of the confusion matrix that is drawn
MOST_WRONG = 24  # images that are shown
BY_READING = "a leave-one-out reading"
LEAST_TO_READ = 4  # images for a leave-one-out reading


@dataclass(frozen=True)
class Answers:
    """One answer for each of N images: ``values`` [N, K], for classes also ``predicted`` [N] and its ``confidence`` [N].

    ``by`` says who answers; ``names`` are those of the outputs.
    """

    by: str
    task: str
    names: list[str]
    values: Tensor
    predicted: Tensor | None = None
    confidence: Tensor | None = None

    @property
    def is_reading(self) -> bool:
        return self.by.startswith(BY_READING)


def answers_of(model: nn.Module, run: ModelPass, images: ReportImages) -> Answers | None:
    """Returns the classifier's answers; where it isn't one for these classes, those of a leave-one-out reading; else None."""
    meaning = _meaning(model, run, images)
    if meaning is not None and _fits(meaning, images, record(model) is not None):
        values = meaning.answers(run.scores)  # type: ignore[arg-type]  # a meaning is of scores
        names = images.classes if len(images.classes) == values.shape[1] else meaning.labels
        if meaning.task in ("classification", "ordinal"):
            first = torch.from_numpy(meaning.ranked(values.numpy())[:, 0].astype(np.int64))
            sure = values.gather(1, first[:, None])[:, 0]
            return Answers("the model's classifier", meaning.task, names, values, first, sure)
        return Answers("the model", meaning.task, names, values)
    return reading_of(run.x, images)


def _meaning(model: nn.Module, run: ModelPass, images: ReportImages) -> Meaning | None:
    if run.scores is None:
        return None
    told = getattr(record(model), "task", None)
    task = None if told else TASK_OF_KIND.get(images.kind)
    try:
        meaning = meaning_of(description_of(model, task=task), run.scores.shape[1])
    except PetlError:
        return None
    return None if meaning.task == "metric" else meaning


def _fits(meaning: Meaning, images: ReportImages, is_wrapped: bool) -> bool:
    """Returns whether the outputs are for these targets: an ImageNet classifier's are not for three kinds of flowers.

    Those of a wrapped model may be for more classes than the data has, as its labels or their numbers say.
    """
    outputs, y = len(meaning.labels), images.y
    if images.kind == "":
        return True
    if images.kind == "classes":
        right = meaning.task in ("classification", "ordinal")
        return right and (outputs == len(images.classes) or (is_wrapped and {*images.classes} <= {*meaning.labels}))
    width = 1 if y is None or y.ndim == 1 else y.shape[1]
    return outputs == width and meaning.task == ("multilabel" if images.kind == "labels" else "regression")


def reading_of(x: Tensor, images: ReportImages) -> Answers | None:
    """Returns what leave-one-out ridge regression on the features says of each image's class; None where there are no classes."""
    if images.kind != "classes" or images.y is None or len(images.y) < LEAST_TO_READ or len(torch.unique(images.y)) < 2:
        return None
    scores = ridge(x, images.y, max(len(images.classes), int(images.y.max()) + 1)).left_out.float()
    sure, first = scores.clamp(0, 1).max(1)
    by = f"{BY_READING} of its features, as its classifier isn't one for these classes"
    return Answers(by, "classification", images.classes, scores, first, sure)


def answer_facts(answers: Answers | None, images: ReportImages) -> dict[str, Any]:
    """Returns how many answers are right, which classes are taken for which, and the most confidently wrong images."""
    if answers is None:
        return {"why_not": "the model gives no answers that can be compared with these targets"}
    facts: dict[str, Any] = {"by": answers.by, "task": answers.task}
    if answers.predicted is None or images.kind not in ("classes", ""):
        return {**facts, **_value_facts(answers, images)}
    if images.y is None:
        order = (answers.confidence if answers.confidence is not None else torch.zeros(0)).argsort(stable=True)
        return {**facts, "unsure": order[:MOST_WRONG].tolist()}
    right = answers.predicted == images.y
    accuracy = float(right.double().mean())
    wrong = most_wrong(answers, images)
    return {
        **facts,
        "accuracy": accuracy,
        "error": accuracy_error(accuracy, len(right)),
        "right": int(right.sum()),
        "wrong_images": len(wrong),
        "wrong": wrong[:MOST_WRONG],
        **_confusion_counts(answers.predicted, images),
    }


def most_wrong(answers: Answers, images: ReportImages) -> list[int]:
    """Returns the numbers of the images whose class is answered wrongly, the most confident answer first."""
    wrong = (answers.predicted != images.y).nonzero()[:, 0]  # type: ignore[union-attr]  # asked of classes alone
    sure = torch.zeros(len(wrong)) if answers.confidence is None else answers.confidence[wrong]
    return wrong[sure.argsort(descending=True, stable=True)].tolist()


def _confusion_counts(predicted: Tensor, images: ReportImages) -> dict[str, Any]:
    """Returns the matrix as rows (class, taken for, images), and the classes to draw: all, or those that are mixed up most."""
    assert images.y is not None
    count = max(len(images.classes), int(images.y.max()) + 1, int(predicted.max()) + 1)
    pairs, numbers = torch.unique(images.y * count + predicted, return_counts=True)
    cells = [
        (pair // count, pair % count, number) for pair, number in zip(pairs.tolist(), numbers.tolist(), strict=True)
    ]
    mixed = [0] * count
    for is_class, said, number in cells:
        mixed[is_class] += number * (is_class != said)
        mixed[said] += number * (is_class != said)
    there = sorted({k for cell in cells for k in cell[:2]})
    shown = sorted(sorted(there, key=lambda k: (-mixed[k], k))[:MATRIX_CLASSES])
    worst = max((cell for cell in cells if cell[0] != cell[1]), key=lambda cell: cell[2], default=None)
    return {
        "confusion": [list(cell) for cell in cells],
        "shown": shown,
        "most_confused": list(worst) if worst else None,
    }


def _value_facts(answers: Answers, images: ReportImages) -> dict[str, Any]:
    """Returns the images that are farthest from their targets, of number targets and of several labels."""
    if images.y is None:
        return {}
    targets = images.y.float() if images.y.ndim == 2 else images.y.float()[:, None]
    gaps = (answers.values - targets).abs()
    spread = targets.nan_to_num().std(0).clamp_min(1e-12) if images.kind == "numbers" and len(targets) > 1 else 1.0
    misses = (gaps / spread).nanmean(1).nan_to_num(-1)
    order = misses.argsort(descending=True, stable=True)
    worst = [row for row in order.tolist() if misses[row] > 0][:MOST_WRONG]
    return {"worst": worst, "misses": {str(row): float(gaps[row].nanmean()) for row in worst}}
