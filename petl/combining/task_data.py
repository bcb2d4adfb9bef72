"""The images of a task: those that a classifier is computed from, and those on which choices are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from petl.data.class_labels import dataset_classes
from petl.data.grouping import every_target
from petl.data.own_parts import own_parts
from petl.data.pipelines import pipeline
from petl.data.split_folders import has_split
from petl.data.table_sources import is_image_table
from petl.data.validation_split import holdout
from petl.errors import DataError, StateError, listing
from petl.extraction.features import features
from petl.measures.enough_labels import refuse_few_labels
from petl.training.head_start import unaugmented


@dataclass(frozen=True)
class TaskData:
    """Labelled images of one task.

    Attributes:
        name: of the task, "" where there is one alone.
        train: to compute classifiers from. ``held``: to choose on; None where nothing is chosen.
        labels: the names of the classes, in the order of the outputs.
        own: whether ``held`` is the data's own validation split.
    """

    name: str
    train: Dataset
    held: Dataset | None
    labels: list[str]
    own: bool = False


@dataclass(frozen=True)
class Passes:
    """How images are read: options for `petl.features`, and at most so many of a part."""

    images: int = 1000
    seed: int = 0
    batch_size: int = 64
    workers: int = 0
    progress: bool = True

    def read(self, model: nn.Module, data: Any, labels: Sequence[str], head: Any = True) -> tuple[Tensor, Tensor]:
        """Returns what the classifier takes [N, D] (with ``head=False``: the outputs) and class numbers [N]."""
        options: dict[str, Any] = {key: getattr(self, key) for key in ("seed", "batch_size", "workers", "progress")}
        found = features(model, data, head=head, images=self.images, labels=labels, cache=False, **options)
        assert found.y is not None
        if int(found.y.max()) >= len(labels):
            raise DataError(f"class number {int(found.y.max())}; there are {len(labels)} classes: {listing(labels)}")
        return found.x, found.y


def task_data(
    data: Any, model: nn.Module, known: Mapping[str, list[str] | None], *, choosing: bool, seed: int
) -> list[TaskData]:
    """Returns the images of each task.

    Args:
        data: of one task (a folder, a table, a Dataset, or a pair (train, val)), or a dict of these by the names of deltas.
        model: whose input pipeline files go through.
        known: the labels of each delta by its name.
        choosing: whether a part is held out. The data's own validation images are taken, else a fifth of the training images;
            a test part never.

    Raises:
        DataError: no labels, too few images, or classes that the delta lacks. StateError: a name that no delta has.
    """
    if isinstance(data, Mapping):
        if strange := [name for name in data if name not in known]:
            raise StateError(f"data= has images for {listing(strange)}, and the deltas are {listing(known)}")
        return [_task(name, part, model, known[name], choosing, seed) for name, part in data.items()]
    labels = [*known.values()]
    same = labels[0] if all(one == labels[0] for one in labels) else None
    return [_task("", data, model, same, choosing, seed)]


def _task(name: str, data: Any, model: nn.Module, labels: list[str] | None, choosing: bool, seed: int) -> TaskData:
    own = own_parts(data, pipeline(model))
    train, held = unaugmented(own.train), None
    numbers = every_target(train)
    y = torch.from_numpy(np.asarray(numbers))
    found = dataset_classes(train)
    refuse_few_labels("combine", y if y.is_floating_point() or y.ndim > 1 else y[y >= 0], found or [])
    names = _class_names(found, labels, int(y.max()) + 1, name)
    if found and names != found:
        train = Renumbered(train, [names.index(one) for one in found], names)
    apart = _has_validation(data)
    if choosing and apart and own.rest is not None:
        held = own.rest if not found or names == found else Renumbered(own.rest, [names.index(n) for n in found], names)
    elif choosing:
        train, held = (unaugmented(part) for part in holdout(train, seed=seed))
    return TaskData(name, train, held, names, apart)


def _has_validation(data: Any) -> bool:
    """Returns whether the data comes with validation images of its own, which aren't its test images."""
    if isinstance(data, tuple):
        return True
    return (isinstance(data, (str, Path)) or is_image_table(data)) and has_split(data, "val")


def _class_names(found: list[str] | None, labels: list[str] | None, count: int, name: str) -> list[str]:
    """Returns the delta's labels, where the data's classes are among them; else the data's own."""
    if labels is None:
        return found or [str(number) for number in range(count)]
    if found is None and count <= len(labels):
        return labels
    strange = [one for one in found or [] if one not in labels]
    if found is None or (strange and name):
        what = listing(strange) if strange else f"class number {count - 1}"
        raise DataError(f"the images for {name or 'the deltas'} have {what}; the delta's classes are {listing(labels)}")
    return found if strange else labels


class Renumbered(Dataset):
    """A dataset whose class numbers are those of other names; ``numbers`` has the new number of each class."""

    def __init__(self, dataset: Any, numbers: Sequence[int], classes: list[str]) -> None:
        self.dataset, self.numbers, self.classes = dataset, [*numbers], classes

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image, target = self.dataset[index]
        return image, self.numbers[int(target)] if int(target) >= 0 else int(target)

    @property
    def targets(self) -> np.ndarray:
        """The class numbers of all items."""
        y = every_target(self.dataset)
        return np.where(y >= 0, np.asarray(self.numbers)[np.maximum(y, 0)], y)
