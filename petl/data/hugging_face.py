"""Datasets of Hugging Face's library as tables: their images are read when they are asked for, and go through petl's pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petl.data.split_names import split_of
from petl.data.table_columns import TARGET_ROLES
from petl.data.table_files import ImageTable, clean_table
from petl.errors import DataError, listing

PLAIN_FORMATS = (None, "torch", "numpy", "arrow", "pandas", "polars")  # "custom" is a transform of the user's own


class HubImage:
    """An image in a row of a dataset, which is read as a file is: opened, read and closed."""

    __slots__ = ("column", "images", "row")

    def __init__(self, images: Any, column: str, row: int):
        self.images, self.column, self.row = images, column, row

    def read(self) -> Any:
        """Returns the PIL image, or the bytes of its file where the dataset doesn't decode."""
        image = self.images[self.row][self.column]
        if not isinstance(image, dict):
            return image
        return image["bytes"] if image.get("bytes") is not None else Path(image["path"]).read_bytes()

    def __enter__(self) -> HubImage:
        return self

    def __exit__(self, *error: object) -> None:
        """Leaves the dataset as it is."""


def is_hub_dataset(source: Any) -> bool:
    """Returns whether this is a Dataset or DatasetDict of Hugging Face whose images petl reads: one without a transform."""
    if is_hub_dict(source):
        return bool(source) and all(is_hub_dataset(part) for part in source.values())
    known = all(
        hasattr(source, name) for name in ("features", "column_names", "with_format", "select_columns", "format")
    )
    if not known or not hasattr(source, "__len__") or source.format.get("type") not in PLAIN_FORMATS:
        return False
    return bool(_of_kind(source, "Image"))


def is_hub_dict(source: Any) -> bool:
    """Returns whether this is Hugging Face's DatasetDict."""
    return isinstance(source, dict) and type(source).__name__ == "DatasetDict"


def hub_splits(source: Mapping[str, Any]) -> dict[str, str]:
    """Returns {train, val or test: the key of that split} for a DatasetDict."""
    found: dict[str, str] = {}
    for key in source:
        found.setdefault(split_of(key) or key, key)
    return found


def hub_split(source: Any, split: str | None) -> Any:
    """Returns the part of a DatasetDict that holds the split; a Dataset as it is.

    Raises:
        DataError: there is no such split.
    """
    if not is_hub_dict(source):
        return source
    if split in source:
        return source[split]
    keys = hub_splits(source)
    key = keys.get(split_of(split or "") or "")
    if key is None and len(keys) > 1:
        raise DataError(f"this DatasetDict has no split {split!r}; its splits are {listing(source)}")
    return source[key or next(iter(source))]


def hub_table(dataset: Any, options: Mapping[str, Any]) -> tuple[ImageTable, dict[str, Any]]:
    """Returns the table of a dataset, and the options with its columns named.

    Raises:
        DataError: it has several columns of images or labels, and the options don't say which.
    """
    columns = dict(options.get("columns") or {})
    asked = {**columns, **{key: options[key] for key in ("path", *TARGET_ROLES) if key in options}}
    path = asked.get("path") or _only(dataset, "Image", "path")
    if path not in dataset.column_names:
        raise DataError(f"this dataset has no column {path!r}; its columns are {listing(dataset.column_names)}")
    named = {"path": path}
    labels, several = _of_kind(dataset, "ClassLabel"), _class_lists(dataset)
    if not any(asked.get(role) for role in TARGET_ROLES) and (labels or several):
        named["label" if labels else "labels"] = _only(dataset, "ClassLabel", "label") if labels else several[0]
    flat = [name for name, feature in dataset.features.items() if _is_flat(feature)]
    unread = dataset.with_format(None)
    cells = unread.select_columns(flat)[:] if flat else {}
    images = unread.select_columns([path])
    cells = {**cells, path: [HubImage(images, path, row) for row in range(len(dataset))]}
    names = {name: dataset.features[name].names for name in labels}
    for name in several:
        inner = names[name] = _inner(dataset.features[name]).names
        cells[name] = [None if row is None else [inner[number] for number in row] for row in cells[name]]
    table = clean_table(ImageTable(f"this dataset of {len(dataset)} rows", cells, Path(), True, names))
    return table, {**options, "columns": {**named, **columns}}


def _of_kind(dataset: Any, kind: str) -> list[str]:
    """Returns the columns whose feature is of this class."""
    return [name for name, feature in (dataset.features or {}).items() if type(feature).__name__ == kind]


def _only(dataset: Any, kind: str, role: str) -> str:
    found = _of_kind(dataset, kind)
    if len(found) != 1:
        raise DataError(
            f"this dataset has {len(found)} columns of {kind} ({listing(found) or 'none'}); say which: {role}='...' to "
            "petl.data.dataset, or keys=('image', 'label') with their names to petl.fit"
        )
    return found[0]


def _inner(feature: Any) -> Any:
    return feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)


def _class_lists(dataset: Any) -> list[str]:
    return [name for name, one in dataset.features.items() if type(_inner(one)).__name__ == "ClassLabel"]


def _is_flat(feature: Any) -> bool:
    """Returns whether a column holds a value, or a short list of values, for each row."""
    kinds = ("Value", "ClassLabel")
    return type(feature).__name__ in kinds or type(_inner(feature)).__name__ in kinds
