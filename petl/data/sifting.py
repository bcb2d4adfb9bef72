"""Leaves out the files of a dataset that can't be read, before training starts."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import Subset

from petl.data.class_labels import are_class_numbers, dataset_targets
from petl.data.damage import why_unreadable
from petl.data.datasets import Images
from petl.data.wrappers import locate, petl_datasets
from petl.errors import DataError, listing, printable

log = logging.getLogger(__name__)
AnyDataset = TypeVar("AnyDataset")
MAX_LOGGED = 100


def sift(dataset: AnyDataset, *, training: bool = False, strict: bool = False) -> tuple[AnyDataset, dict[str, str]]:
    """Returns the dataset without the files that can't be read, and {file: reason} for these.

    The files of petl's own datasets are checked, also inside of `Subset` and `ConcatDataset`; other datasets are returned as they
    are. `petl.fit` and `petl.evaluate` call this on their data. The files are named in a warning (logger ``petl``).

    Args:
        training: Whether it is an error if no image of a class is left.
        strict: Whether every file is read whole, also those that look well, and it is an error if one can't be read.

    Raises:
        DataError: nothing is left, or, with ``strict``, there are bad files.

    Example:
        >>> sift([(0, 0)])
        ([(0, 0)], {})
    """
    has_images = any(isinstance(own, Images) for own in petl_datasets(dataset))
    count = len(dataset) if has_images else 0  # type: ignore[arg-type]  # what holds Images has a length
    bad: dict[int, str] = {}
    named: dict[str, str] = {}
    for index in range(count):
        images, number = locate(dataset, index)
        if isinstance(images, Images) and (why := why_item_unreadable(images, number, strict)):
            bad[index] = named[images.filename(number)] = why
    if not bad:
        return dataset, {}
    files = _listed(named)
    if strict:
        raise DataError(
            f"{len(bad)} of {count} images can't be read: {files}; mend or remove them, or leave out strict"
        )
    if len(bad) == count:
        raise DataError(f"none of the {count} images can be read: {files}")
    if training:
        _refuse_lost_class(dataset, bad, files)
    _log_files(named, count)
    good = np.setdiff1d(np.arange(count), list(bad))
    whole: Any = dataset
    kept: Any = whole.part(good, training=whole.training) if isinstance(whole, Images) else Subset(whole, good.tolist())
    return kept, named


def _listed(named: dict[str, str]) -> str:
    """Returns the first few files with their reasons, named relative to the folder that they share."""
    folder = os.path.dirname(os.path.commonprefix(list(named)))  # noqa: RUF071  # commonpath would fail on mixed and relative names
    below = [(file.removeprefix(folder).lstrip(os.sep), why) for file, why in named.items()]
    return f"{f'in {folder}: ' if folder else ''}{listing(f'{file} ({why})' for file, why in below)}"


def _log_files(named: dict[str, str], count: int) -> None:
    """Logs a line for each file, up to MAX_LOGGED of them, and one with their number."""
    for file, why in list(named.items())[:MAX_LOGGED]:
        log.warning("left out %s: %s", printable(file), printable(why))
    more = (
        f", {len(named) - MAX_LOGGED} more than named here (petl.data.sift lists all)"
        if len(named) > MAX_LOGGED
        else ""
    )
    log.warning("%d of %d images can't be read and are left out%s", len(named), count, more)


def _refuse_lost_class(dataset: Any, bad: dict[int, str], files: str) -> None:
    """Raises a DataError if no image of a class is left."""
    numbers = dataset_targets(dataset)
    if numbers is None or not are_class_numbers(numbers):
        return
    lost = sorted({*numbers.tolist()} - {*np.delete(numbers, list(bad)).tolist()})
    if lost:
        names = getattr(locate(dataset, 0)[0], "classes", [])
        raise DataError(
            f"no image of class {listing(names[n] if n < len(names) else n for n in lost)} can be read: {files}"
        )


def why_item_unreadable(images: Images, index: int, strict: bool) -> str:
    """Returns why an image can't be used, or "". Unless ``strict``, this is the quick check of images that are files."""
    if strict:
        return images.flaw(index)
    samples = getattr(images.source, "samples", None)
    path = samples[int(images.indices[index])][0] if samples is not None else None
    return why_unreadable(path) if isinstance(path, (str, Path)) else ""  # an image in a tar has no path
