"""The images of `petl.start`: those that everything is learned and chosen from, and those that only tell the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from petl.data.dataset_tasks import dataset_target_names
from petl.data.datasets import Images
from petl.data.grouping import every_target
from petl.data.own_parts import own_parts
from petl.data.sifting import sift
from petl.data.validation_split import holdout, refuse_stream
from petl.errors import DataError, listing
from petl.measures.enough_labels import LEAST, refuse_few_labels
from petl.training.head_start import unaugmented

HELD_OUT = 0.2


@dataclass(frozen=True)
class StartParts:
    """Datasets: ``train``, as a training reads them, ``plain``, the same images without augmentation, and ``told``.

    ``own`` says whether ``told`` are the data's own validation or test images; ``names`` are the classes, of ``outputs``.
    """

    train: Any
    plain: Any
    told: Any
    own: bool
    names: list[str] | None
    outputs: int


def start_parts(data: Any, pipeline: Mapping[str, Any], *, seed: int, options: Mapping[str, Any]) -> StartParts:
    """Returns the data's training images, and its own validation or test images, or a fifth that is held out.

    Raises:
        DataError: the images have no classes, one, or fewer than four images of one that can be read.
    """
    train, rest = own_parts(data, pipeline, **options)
    refuse_stream(train)
    train, rest = sift(train, training=True)[0], None if rest is None else sift(rest)[0]
    targets, names = torch.from_numpy(every_target(train)), dataset_target_names(train)
    whole = not targets.is_floating_point() and targets.ndim == 1
    outputs = max(int(targets.max()) + 1 if whole else 0, len(names or ()))
    refuse_few_labels("start", targets, names or [str(number) for number in range(outputs)])
    own = rest is not None
    train, rest = (train, rest) if own else holdout(train, HELD_OUT, seed=seed)
    if not own:
        _refuse_few_left(train, outputs)
    return StartParts(_augmented(train), unaugmented(train), unaugmented(rest), own, names, outputs)


def _refuse_few_left(train: Any, outputs: int) -> None:
    """Raises a DataError where a fifth that is held out leaves fewer images of a class than every step needs."""
    counts = np.bincount(every_target(train), minlength=outputs)
    few = [number for number in range(outputs) if 0 < counts[number] < LEAST]
    if few:
        names = dataset_target_names(train) or [str(number) for number in range(outputs)]
        raise DataError(
            f"start holds out a fifth of the images to tell the result on, and {LEAST} of each class must be left; too few are "
            f"left of {listing(f'{names[number]} ({counts[number]})' for number in few)}; add images (5 of a class are enough), "
            "or give images to tell the result on: a folder val beside train, or petl.start((train, val))"
        )


def _augmented(dataset: Any) -> Any:
    """Returns petl's own images as a training reads them; another Dataset as it is."""
    if isinstance(dataset, Images) and not dataset.training:
        return dataset.part(np.arange(len(dataset)), training=True)
    return dataset
