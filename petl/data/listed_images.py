"""Lists of images as tables: paths with ``labels=``, pairs (path, label), and dicts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from petl.data.table_columns import KNOWN
from petl.data.table_files import ImageTable, clean_table, rows_table
from petl.errors import DataError, listing

VALUES = ("label", "labels", "targets", "split", "group", "weight")  # options that have a value for each path of a list
PATH_NAMES = {*KNOWN["path"].split()}


def is_listed(source: Any) -> bool:
    """Returns whether this is a list of paths or PIL images, of pairs that begin with one, or of dicts that hold one.

    >>> is_listed(["cat/1.png"]), is_listed([("cat/1.png", "cat")]), is_listed([(0.5, 1)])
    (True, True, False)
    """
    if not isinstance(source, (list, tuple)) or not source:
        return False
    first = source[0]
    if isinstance(first, Mapping):
        return any(_is_image(value) for value in first.values() if not isinstance(value, str)) or _has_path(first)
    return _is_image(first) or (isinstance(first, (list, tuple)) and len(first) == 2 and _is_image(first[0]))


def _is_image(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike)) or type(value).__module__.startswith("PIL.")


def _has_path(row: Mapping[str, Any]) -> bool:
    """Returns whether a dict has a path and no image that is computed already."""
    ready = any(hasattr(value, "shape") and len(value.shape) > 1 for value in row.values())
    named = any(
        str(key).replace("_", "").lower() in PATH_NAMES and isinstance(value, str) for key, value in row.items()
    )
    return named and not ready


def list_table(source: Sequence[Any], options: Mapping[str, Any]) -> tuple[ImageTable, dict[str, Any]]:
    """Returns the table of a list, and the options that are left: those with a value for each path are its columns now.

    Raises:
        DataError: items are of several kinds, or there isn't one value for each.
    """
    kinds = sorted({_item_kind(item) for item in source})
    if len(kinds) > 1:
        raise DataError(f"a list of {' and '.join(kinds)}; expected one kind: paths, pairs (path, label), or dicts")
    name, rest = f"this list of {len(source)} {kinds[0]}", dict(options)
    if kinds == ["dicts"]:
        return rows_table(list(source), name, Path()), rest
    columns: dict[str, Any] = {"path": list(source) if kinds == ["paths"] else [item[0] for item in source]}
    if kinds == ["pairs"]:
        several = any(isinstance(item[1], (list, tuple, set, frozenset)) for item in source)
        columns["labels" if several else "label"] = [item[1] for item in source]
    for role in VALUES:
        key = "split_column" if role == "split" else role
        if (values := rest.pop(key, None)) is not None:
            columns.update(_value_columns(role, _as_list(key, values, len(source))))
    roles = {role: [*columns][1:] for role in ("targets",) if role in options}
    if "label" not in columns and "labels" not in columns and not roles:
        raise DataError(
            f"{name} has no labels; expected pairs (path, label), or petl.data.dataset(paths, petl.data.pipeline(model), "
            "labels=names) with a label for each path"
        )
    number_columns = [column for column in columns if column == "value" or column.startswith("value ")]
    return clean_table(ImageTable(name, columns, Path(), True)), {
        **rest,
        **({"targets": number_columns} if number_columns else {}),
    }


def _item_kind(item: Any) -> str:
    if isinstance(item, Mapping):
        return "dicts"
    if _is_image(item):
        return "paths"
    return "pairs" if isinstance(item, (list, tuple)) and len(item) == 2 else f"{type(item).__name__}s"


def _as_list(key: str, values: Any, count: int) -> list[Any]:
    """Returns the values for the paths of a list."""
    listed = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(listed, (str, bytes, Mapping)) or not isinstance(listed, (list, tuple)) or len(listed) != count:
        what = f"{len(listed)} values" if isinstance(listed, (list, tuple)) else repr(listed)[:60]
        raise DataError(f"{key}= has {what} for {count} paths; expected a list with one for each path, in their order")
    return list(listed)


def _value_columns(role: str, values: list[Any]) -> dict[str, list[Any]]:
    """Returns the columns for the values of a role; numbers that come several for an image get a column each."""
    if role in ("label", "labels"):
        several = any(isinstance(value, (list, tuple, set, frozenset)) for value in values)
        return {"labels" if several else "label": values}
    if role != "targets":
        return {role: values}
    widths = sorted({len(value) if isinstance(value, (list, tuple)) else 1 for value in values})
    if len(widths) > 1:
        raise DataError(f"targets= has {listing(map(str, widths))} numbers for an image; expected as many for each")
    rows = [value if isinstance(value, (list, tuple)) else [value] for value in values]
    return {f"value {k}" if widths[0] > 1 else "value": [row[k] for row in rows] for k in range(widths[0])}
