"""Leaves out the files of a dataset that can't be read, before they cost anything."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch.utils.data import Subset

from petl.data.class_labels import dataset_targets
from petl.data.damage import why_unreadable
from petl.data.datasets import Images
from petl.data.wrappers import locate, petl_datasets
from petl.errors import DataError, listing, printable

log = logging.getLogger(__name__)
AnyDataset = TypeVar("AnyDataset")
MAX_LOGGED = 100  # names of files in a log


def sift(dataset: AnyDataset, *, training: bool = False, strict: bool = False) -> tuple[AnyDataset, dict[str, str]]:
    """The dataset without the files that can't be read, and those with the reason: {file: reason}.

    It looks into petl's own datasets, also inside of `Subset` and `ConcatDataset`; others come back as they are. `petl.fit` and
    `petl.evaluate` call it on what they are given. The files are named in a warning (logger ``petl``).

    Args:
        training: A class of which nothing is left is an error then.
        strict: Every file is read whole, also those that look well, and a bad one is an error.

    Raises:
        DataError: nothing is left, or, with ``strict``, there are bad files.

    Example:
        >>> sift([(0, 0)])
        ([(0, 0)], {})
    """
    mine = any(isinstance(origin, Images) for origin in petl_datasets(dataset))
    count = len(dataset) if mine else 0  # type: ignore[arg-type]  # what holds Images has a length
    bad: dict[int, str] = {}
    named: dict[str, str] = {}
    for index in range(count):
        leaf, inner = locate(dataset, index)
        if isinstance(leaf, Images) and (why := why_item_unreadable(leaf, inner, strict)):
            bad[index] = named[leaf.filename(inner)] = why
    if not bad:
        return dataset, {}
    shown = _listed(named)
    if strict:
        raise DataError(
            f"{len(bad)} of {count} images can't be read: {shown}; mend or remove them, or leave out strict"
        )
    if len(bad) == count:
        raise DataError(f"none of the {count} images can be read: {shown}")
    if training:
        _refuse_lost_class(dataset, bad, shown)
    _log_files(named, count)
    good = np.setdiff1d(np.arange(count), list(bad))
    whole: Any = dataset
    kept: Any = whole.part(good, training=whole.training) if isinstance(whole, Images) else Subset(whole, good.tolist())
    return kept, named


def _listed(named: dict[str, str]) -> str:
    """The first few files with their reasons, by their names below the folder that they share."""
    folder = os.path.dirname(os.path.commonprefix(list(named)))  # noqa: RUF071  # of letters, then the folder: not all are paths
    below = [(file.removeprefix(folder).lstrip(os.sep), why) for file, why in named.items()]
    return f"{f'in {folder}: ' if folder else ''}{listing(f'{file} ({why})' for file, why in below)}"


def _log_files(named: dict[str, str], count: int) -> None:
    """Name every file in a line of its own, but no thousands of them."""
    for file, why in list(named.items())[:MAX_LOGGED]:
        log.warning("left out %s: %s", printable(file), printable(why))
    more = (
        f", {len(named) - MAX_LOGGED} more than named here (petl.data.sift lists all)"
        if len(named) > MAX_LOGGED
        else ""
    )
    log.warning("%d of %d images can't be read and are left out%s", len(named), count, more)


def _refuse_lost_class(dataset: Any, bad: dict[int, str], shown: str) -> None:
    numbers = dataset_targets(dataset)
    if numbers is None:
        return
    lost = sorted({*numbers.tolist()} - {*np.delete(numbers, list(bad)).tolist()})
    if lost:
        names = getattr(locate(dataset, 0)[0], "classes", [])
        raise DataError(
            f"no image of class {listing(names[n] if n < len(names) else n for n in lost)} can be read: {shown}"
        )


def why_item_unreadable(images: Images, index: int, strict: bool) -> str:
    """Why an image can't be used, or "" for none that shows; nothing but files of their own is looked at unless ``strict``."""
    if strict:
        return images.flaw(index)
    samples = getattr(images.source, "samples", None)
    path = samples[int(images.indices[index])][0] if samples is not None else None
    return why_unreadable(path) if isinstance(path, (str, Path)) else ""  # what is in a tar has a place, no path
