"""Targets and groups of the images in any dataset, for dividing it: groups such as patients are never on both sides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from petl.data.class_labels import dataset_targets
from petl.data.datasets import Images
from petl.data.label_faults import label_fault
from petl.data.pairs import describe_batch, pick_keys
from petl.data.table_source import TableReader
from petl.data.wrappers import locate, wrapped_datasets
from petl.errors import DataError, listing, near

Groups = str | Sequence[Any] | np.ndarray | Callable[[str], Any] | bool | None


def every_target(dataset: Any) -> np.ndarray:
    """Returns the target of every item: int64 [N], or float32 [N] or [N, K]; items are read where the dataset doesn't list them.

    Raises:
        DataError: the items have no such targets.
    """
    if type(dataset) is Subset:
        return every_target(dataset.dataset)[np.asarray(dataset.indices, dtype=np.int64)]
    found: Any = dataset_targets(dataset)
    if found is None and type(dataset) is TensorDataset and len(dataset.tensors) == 2:
        found = dataset.tensors[1].cpu().numpy()
    if found is None and getattr(dataset, "target_transform", None) is None:
        found = getattr(dataset, "targets", None)
    if found is None:
        found = [_target_of(dataset[index]) for index in range(len(dataset))]
    try:
        whole = isinstance(found, np.ndarray) and found.dtype.kind in "iufb"
        array = found if whole else torch.stack([torch.as_tensor(one) for one in found]).numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        fault = label_fault(found) or f"its targets can't be divided evenly: {error}"
        raise DataError(f"a {type(dataset).__name__} with labels of no use: {fault}") from error
    if array.ndim == 2 and array.shape[-1] == 1:
        array = array.reshape(-1)
    if array.ndim not in (1, 2) or len(array) != len(dataset) or array.dtype.kind not in "iufb":
        raise DataError(
            f"the targets of this {type(dataset).__name__} are of shape {list(array.shape)} for {len(dataset)} images; expected "
            "[N] or [N, K]"
        )
    whole = array.dtype.kind in "iu" or (array.dtype.kind == "b" and array.ndim == 1)
    return array.astype(np.int64 if whole else np.float32)


def _target_of(item: Any) -> Any:
    pair = pick_keys(item, None)
    if not isinstance(pair, (tuple, list)) or len(pair) < 2:
        raise DataError(f"an item is {describe_batch(item)}; expected a pair (image, target)")
    return pair[1]


def group_numbers(dataset: Any, groups: Groups) -> np.ndarray | None:
    """Returns the number of each image's group [N], from 0 in the order in which they come; None where there are no groups.

    Args:
        groups: None for the dataset's own; False for none; the name of a table's column; a function of a file's path; or a value
            for each image.

    Raises:
        DataError: there isn't one for each image.
    """
    if groups is None:
        values = own_groups(dataset)
    elif groups is False:
        values = None
    elif isinstance(groups, str):
        values = [_cell(dataset, index, groups) for index in range(len(dataset))]
    elif callable(groups):
        values = [groups(_path(dataset, index)) for index in range(len(dataset))]
    else:
        values = _given_groups(groups, len(dataset))
    if values is None:
        return None
    empty = [index for index, value in enumerate(values) if value is None or value != value]
    if empty:
        raise DataError(
            f"{len(empty)} of {len(values)} images have no group, the first is image {empty[0]}; give each one"
        )
    numbers: dict[Any, int] = {}
    try:
        return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)
    except TypeError as error:
        raise DataError(f"a group can't be {values[0]!r}; expected a name or a number for each image") from error


def own_groups(dataset: Any) -> list[Any] | None:
    """Returns the group of every item, from the column of a table, also inside of `Subset` and `ConcatDataset`; else None."""
    if isinstance(dataset, Images):
        groups = dataset.groups
        return None if groups is None else groups.tolist()
    parts = [own_groups(part) for part in wrapped_datasets(dataset)]
    if not parts or any(part is None for part in parts):
        return None
    if isinstance(dataset, Subset):
        return [parts[0][int(index)] for index in dataset.indices]  # type: ignore[index]  # none of them is None
    if isinstance(dataset, ConcatDataset):  # the groups of its parts may share names: then they are the same patients
        return [group for part in parts for group in part or ()]
    return parts[0]


def _cell(dataset: Any, index: int, name: str) -> Any:
    images, number = locate(dataset, index)
    source = images.source if isinstance(images, Images) else None
    if not isinstance(source, TableReader):
        raise DataError(
            f"groups={name!r} names a column, and this dataset comes from no table; pass a group for each image, or a function "
            "of a file's path: groups=lambda path: path.split('/')[-2]"
        )
    columns = source.table.columns
    if name not in columns:
        raise DataError(
            f"{source.table.name} has no column {name!r}{near(name, columns)}; it has {listing(columns, 12)}"
        )
    return columns[name][source.rows[int(images.indices[number])]]


def _path(dataset: Any, index: int) -> str:
    images, number = locate(dataset, index)
    if not isinstance(images, Images):
        raise DataError(
            f"groups= is a function of a file's path, and a {type(images).__name__} has no files; pass a group for each image"
        )
    return images.filename(number)


def _given_groups(groups: Any, count: int) -> list[Any]:
    values = groups.tolist() if hasattr(groups, "tolist") else groups
    if isinstance(values, (bytes, dict, set, bool)) or not isinstance(values, Sequence) or len(values) != count:
        what = f"{len(values)} values" if isinstance(values, (list, tuple)) else repr(values)[:60]
        raise DataError(
            f"groups= has {what} for {count} images; expected one for each, a column's name, or a function of a file's path"
        )
    return list(values)
