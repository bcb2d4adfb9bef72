"""Turns a model's outputs for images into labels with confidences, or values, by the task that the delta was trained for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petl import data
from petl.cli.terminal import note
from petl.errors import DataError, DeltaError
from petl.format.ordinal_outputs import level_probabilities, ordinal_levels
from petl.format.outputs import TASKS

MOST_NAMED = 10  # files that were left out
THRESHOLD = 0.5  # of the confidence from which on a label belongs to a multi-label prediction


def task_of(header: Mapping[str, Any]) -> str | None:
    """Returns the task in a delta's header, or None where it isn't recorded.

    Raises:
        DeltaError: it is one that this petl doesn't know.
    """
    task = header.get("task")
    if task is not None and task not in TASKS:
        raise DeltaError(f"the delta's task is {task!r}, and this petl knows {', '.join(TASKS)}; upgrade petl-vision")
    return task


def predictions(output: Any, header: Mapping[str, Any], top: int | None = None) -> list[dict[str, Any]]:
    """Returns the labels for one image's outputs [1, K] with their confidences, the largest first, or its values.

    A classification returns the ``top`` (1) labels of the softmax, "multilabel" each label whose own sigmoid is at least its
    threshold, 0.5 unless the delta has another (or the ``top`` ones), "ordinal" the median level, "regression" and "metric"
    every output as it is. Without a recorded task, several outputs are taken for
    classes, and one is a value: a softmax over one number would be sure of it whatever it is.

    Raises:
        DeltaError: the outputs aren't [1, K], aren't numbers any more, or aren't as many as the labels.

    >>> predictions(torch.tensor([[4.0, 4.0]]), {"labels": ["sun", "sea"], "task": "multilabel"})
    [{'label': 'sun', 'confidence': 0.98...}, {'label': 'sea', 'confidence': 0.98...}]
    """
    task, values = task_of(header), _values(output)
    labels = header.get("labels") or [str(number) for number in range(len(values))]
    if len(labels) != len(values):
        raise DeltaError(
            f"the model has {len(values)} outputs and the delta {len(labels)} labels; save it again with labels="
        )
    if task in ("regression", "metric") or (task is None and len(values) == 1):
        return [{"label": name, "value": value} for name, value in zip(labels, values.tolist(), strict=True)]
    if task == "ordinal":
        return _level(values, labels, top)
    confidences = values.sigmoid() if task == "multilabel" else values.softmax(0)
    limits = torch.tensor(header.get("thresholds") or [THRESHOLD] * len(values))
    if task == "multilabel" and top is None:
        sure = (confidences >= limits).nonzero()[:, 0]
        return _sorted(confidences[sure], [labels[number] for number in sure.tolist()])
    return _sorted(confidences, labels)[: top or 1]


def _level(values: Tensor, labels: Sequence[str], top: int | None) -> list[dict[str, Any]]:
    """Returns the level that an ordinal delta answers with its probability, or the ``top`` most likely levels."""
    shares = level_probabilities(values)
    if top is not None:
        return _sorted(shares, labels)[:top]
    level = int(ordinal_levels(values))
    return [{"label": labels[level], "confidence": float(shares[level])}]


def _values(output: Any) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != 1:
        what = f"[{', '.join(map(str, output.shape))}]" if isinstance(output, Tensor) else type(output).__name__
        raise DeltaError(f"the model answers an image with {what}; petl predict takes [1, number of classes]")
    values = output[0].float()
    if not torch.isfinite(values).all():
        raise DeltaError("the model's answer is NaN or infinite; the delta's values are broken: train it again")
    return values


def _sorted(confidences: Tensor, labels: Sequence[str]) -> list[dict[str, Any]]:
    surest, order = confidences.sort(descending=True, stable=True)
    both = zip(order.tolist(), surest.tolist(), strict=True)
    return [{"label": labels[number], "confidence": confidence} for number, confidence in both]


def refuse_other_tasks(header: Mapping[str, Any], outputs: int | None) -> None:
    """Refuses deltas whose targets aren't classes, which is what folders of images have."""
    task = task_of(header)
    if task in ("multilabel", "regression"):
        raise DeltaError(
            f"petl eval measures a classification, on folders of classes, and this delta's task is {task}; measure it in Python: "
            "petl.evaluate(model, data)"
        )
    if outputs == 1 and task in (None, "classification"):
        raise DeltaError(
            "petl eval measures a classification, and this delta's model has one output, which is right whatever it says"
        )


def predict_images(
    model: nn.Module,
    header: Mapping[str, Any],
    images: Sequence[Path],
    top: int | None,
    *,
    pipeline: Mapping[str, Any],
    strict: bool,
) -> list[tuple[Path, list[dict[str, Any]]]]:
    """Returns the predictions for each image that can be read; the others are counted and named on stderr.

    Raises:
        DataError: none can be read, or with ``strict`` one can't.
    """
    predicted, unreadable = [], []
    model.eval()
    for path in images:
        try:
            image = data.image(path, pipeline)
        except DataError as error:
            if strict or len(images) == 1:
                raise
            unreadable.append(str(error))
            continue
        with torch.no_grad():
            predicted.append((path, predictions(model(image[None]), header, top)))
    if not predicted:
        raise DataError(f"none of the {len(images)} images can be read; the first one: {unreadable[0]}")
    for error in unreadable[:MOST_NAMED]:
        note(f"skipped {error}")
    if unreadable:
        note(
            f"skipped {len(unreadable)} of {len(images)} images"
            + (", the first of which are named above" * (len(unreadable) > MOST_NAMED))
        )
    return predicted
