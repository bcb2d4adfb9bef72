"""What is a table among the sources of images: table files, frames, lists, Hugging Face's datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from petl.data.hugging_face import hub_split, hub_splits, hub_table, is_hub_dataset, is_hub_dict
from petl.data.listed_images import is_listed, list_table
from petl.data.readers import existing_path
from petl.data.table_files import ImageTable, frame_table, is_frame, is_table_file, read_table
from petl.data.table_source import TableReader, make_table_reader, table_splits


def is_image_table(source: Any) -> bool:
    """Returns whether petl reads this source as a table.

    >>> is_image_table("pets.csv"), is_image_table([("cat.png", "cat")]), is_image_table("pets")
    (True, True, False)
    """
    return is_table_file(source) or is_frame(source) or is_listed(source) or is_hub_dataset(source)


def table_reader(
    source: Any,
    *,
    split: str | None,
    classes: Sequence[str] | None = None,
    root: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> TableReader:
    """Returns the images of a split in a table, see `petl.data.dataset`."""
    table, rest = image_table(source, dict(options or {}), split)
    inside = None if is_hub_dict(source) else split
    return make_table_reader(table, split=inside, classes=classes, root=root, options=rest)


def splits_of_table(source: Any, options: Mapping[str, Any] | None = None) -> list[str]:
    """Returns which of train, val and test a table has; [] for one without splits."""
    if is_hub_dict(source):
        return [kind for kind in ("train", "val", "test") if kind in hub_splits(source)]
    return table_splits(*image_table(source, dict(options or {}), None))


def image_table(source: Any, options: dict[str, Any], split: str | None) -> tuple[ImageTable, dict[str, Any]]:
    """Returns the table in a source, and the options that say what its columns are."""
    if is_hub_dataset(source):
        return hub_table(hub_split(source, split), options)
    if is_listed(source):
        return list_table(source, options)
    encoding = options.get("encoding")
    return (frame_table(source) if is_frame(source) else read_table(existing_path(Path(source)), encoding)), options
