"""The parts that data comes in: the images to learn from, and those of its own validation or test split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from petl.data.sources import dataset as open_dataset
from petl.data.split_folders import has_split
from petl.data.table_sources import is_image_table
from petl.errors import DataError

USUAL_SPLIT = "train"  # where no other is named, the data's own val or test images go with it


class OwnParts(NamedTuple):
    """``train``: a dataset to learn from; ``rest``: a dataset of its own val or test images, or None."""

    train: Any
    rest: Any


def own_parts(data: Any, pipeline: Mapping[str, Any], *, split: str | None = USUAL_SPLIT, **options: Any) -> OwnParts:
    """Returns datasets of a folder's or table's training images and of its own validation images, both as for evaluation.

    Args:
        data: A folder, tar or table (without splits all its images are ``train``), a name such as ``torch/cifar10``, a pair
            (train, val) of these or of Datasets, or one Dataset, which is ``train`` as a whole.
        pipeline: From `petl.data.pipeline`; ``options``: more for `petl.data.dataset`.
        split: What to learn from, as for `petl.data.dataset`: another than "train" is all there is ("." for a folder in which
            every folder is a class, also one called ``train``; None for all splits together).

    Raises:
        DataError: the data is none of these, or can't be opened; only val or test images are there.
    """
    if isinstance(data, tuple) and len(data) == 2:
        train = own_parts(data[0], pipeline, split=split, **options).train
        named = {"classes": train.classes} if getattr(train, "classes", None) and _is_source(data[1]) else {}
        return OwnParts(train, own_parts(data[1], pipeline, split=split, **{**options, **named}).train)
    if not _is_source(data):
        return OwnParts(_as_dataset(data), None)
    if split != USUAL_SPLIT:
        return OwnParts(open_dataset(data, pipeline, split=split, **options), None)
    there = [sort for sort in ("train", "val", "test") if has_split(data, sort, **_table_options(data, options))]
    if there and "train" not in there:
        raise DataError(
            f"{_shown(data)} has only the split {there[0]!r}; expected images to learn from, in a split 'train'"
        )
    if not there:
        return OwnParts(open_dataset(data, pipeline, split=None if is_image_table(data) else "train", **options), None)
    train = open_dataset(data, pipeline, split="train", **options)
    if there == ["train"]:
        return OwnParts(train, None)
    own: Any = {**options, "classes": train.classes}
    return OwnParts(train, open_dataset(data, pipeline, split=there[1], **own))


def _as_dataset(data: Any) -> Any:
    if isinstance(data, DataLoader):
        return data.dataset
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        raise DataError(f"got a {type(data).__name__}; expected a folder, a table, or a Dataset with items by number")
    return data


def _is_source(data: Any) -> bool:
    return isinstance(data, (str, Path)) or is_image_table(data)


def _table_options(data: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    return dict(options) if is_image_table(data) else {}


def _shown(data: Any) -> str:
    return str(data) if isinstance(data, (str, Path)) else "the table"
