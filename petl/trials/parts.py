"""The images of a comparison: those to learn from and to choose by, in folds, and those that choose nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from petl.data.class_labels import are_class_numbers
from petl.data.dataset_tasks import dataset_target_names, dataset_task
from petl.data.datasets import Images
from petl.data.grouping import every_target
from petl.data.own_parts import own_parts
from petl.data.pipelines import pipeline
from petl.data.samples import refuse_sample, sample
from petl.data.sifting import sift
from petl.data.validation_split import folds, holdout, refuse_stream
from petl.errors import DataError, PetlError
from petl.measures.enough_labels import refuse_few_labels
from petl.objectives.choice import inferred_task, task_of

MOST_FOLDS, HELD_SHARE = 5, 0.2
USUAL_FOLDS, LEAST_HELD = 3, 100  # more than three folds where each of them still has so many images to choose by
COMPARED_TASKS = ("classification", "multilabel", "regression")


@dataclass(frozen=True)
class Parts:
    """Datasets: ``folds`` has pairs (to learn from, to choose by), ``told`` the images that choose nothing.

    ``own`` says whether ``told`` are the data's own validation or test images, rather than a fifth that was held out.
    ``outputs`` is how many a model of this ``task`` has, and ``names`` what they are called, if anything.
    """

    folds: list[tuple[Any, Any]]
    told: Any
    own: bool
    task: str
    outputs: int
    names: list[str] | None

    @property
    def chosen_by(self) -> int:
        """Returns how many images there are to learn from and to choose by."""
        return len(self.folds[0][0]) + len(self.folds[0][1])


def open_parts(model: nn.Module, data: Any, *, objective: Any, images: int | None, seed: int) -> Parts:
    """Returns the parts of the data: its own validation or test images choose nothing, else a fifth that is held out first.

    Files that can't be read are left out before anything is counted or divided.

    Args:
        images: At most so many to learn from and to choose by, and as many to tell the result on.

    Raises:
        DataError: the data can't be opened or divided: it is a stream, or has one class, or fewer than four images of a class
            that can be read.
    """
    train, rest = own_parts(data, pipeline(model))
    refuse_stream(train)
    train, rest = sift(train, training=True)[0], None if rest is None else sift(rest)[0]
    targets = every_target(train)
    task = _task(train, targets, objective)
    names = dataset_target_names(train)
    if task == "classification":
        refuse_few_labels(
            "compare", torch.from_numpy(targets), names or [str(n) for n in range(int(targets.max()) + 1)]
        )
    if images is not None:
        refuse_sample(images, seed)
        train, rest = _sampled(train, images, seed), None if rest is None else _sampled(rest, images, seed)
    work, told = holdout(train, HELD_SHARE, seed=seed) if rest is None else (train, rest)
    outputs = _outputs(targets, task, names)
    return Parts(_folds(work, seed), told, rest is not None, task, outputs, names)


def _sampled(dataset: Any, images: int, seed: int) -> Any:
    """Returns a sample that can still be divided into images with and without augmentation."""
    part = sample(dataset, images, seed=seed)
    return dataset.some(np.asarray(part.indices)) if isinstance(dataset, Images) and part is not dataset else part


def _task(train: Any, targets: np.ndarray, objective: Any) -> str:
    meant = task_of(objective, None, dataset_task(train)) or inferred_task(torch.from_numpy(targets[:1]))
    if meant.task not in COMPARED_TASKS:
        raise PetlError(
            f"compare measures classes, several labels and numbers, and objective={meant.task!r} is none of these; compare such "
            "trainings by petl.fit and metrics.compare"
        )
    if meant.task == "classification" and not are_class_numbers(targets):
        raise DataError(f"expected a class number for each image, got targets of shape {list(targets.shape)}")
    return meant.task


def _outputs(targets: np.ndarray, task: str, names: list[str] | None) -> int:
    if task == "classification":
        return max(int(targets.max()) + 1, len(names or ()))
    return 1 if targets.ndim == 1 else targets.shape[1]


def _folds(work: Any, seed: int) -> list[tuple[Any, Any]]:
    """Returns three to five folds, or as many as the smallest class, or the number of groups, allows.

    With few images, what few of them choose is chance, and each fold costs a training: three folds choose by all images in three.
    """
    for count in range(min(MOST_FOLDS, max(USUAL_FOLDS, len(work) // LEAST_HELD)), 2, -1):
        try:
            return folds(work, count, seed=seed)
        except DataError:
            continue
    return folds(work, 2, seed=seed)
