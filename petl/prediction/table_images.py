"""The images that a table lists: files beside it, whether they are there or not, or images that its cells hold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from petl.data.readers import existing_path
from petl.data.table_columns import columns_of_role, find_roles
from petl.data.table_files import ImageTable, frame_table, is_frame, is_table_file, read_table
from petl.data.table_rows import absolute_file, image_in_cell
from petl.errors import DataError, listing

NO_OTHERS = {"split": None, "group": None, "weight": None}  # columns that a prediction doesn't read


class TableImage(NamedTuple):
    """What a row says of its image: a name for it, and what to read."""

    name: str
    item: Any


def lists_images(source: Any) -> bool:
    """Returns whether this is a table of images: a file by its ending, or a frame of pandas, polars or pyarrow.

    >>> lists_images("new.csv"), lists_images("new.png")
    (True, False)
    """
    return is_frame(source) or is_table_file(source)


def images_of_table(source: Any, options: Mapping[str, Any] | None = None) -> list[TableImage]:
    """Returns the images of a table in the order of its rows, named as they are written there; all splits together.

    A file that isn't there stays in the list: it counts among those that can't be read. ``options`` may have ``path``, the
    name of the column, and ``encoding``.

    Raises:
        DataError: it can't be read, has no such column, or no path in a row.
    """
    said = dict(options or {})
    file = None if is_frame(source) else existing_path(Path(source))
    table = frame_table(source) if file is None else read_table(file, said.get("encoding"))
    cells = table.columns[_path_column(table, said)]
    base = Path(os.path.abspath(table.base))
    return [_image(table, number, cell, base) for number, cell in enumerate(cells)]


def _path_column(table: ImageTable, options: Mapping[str, Any]) -> str:
    named = columns_of_role(table, "path")
    if "path" not in options and len(named) > 1:
        if "path" not in named:
            raise DataError(
                f"{table.name} has several columns that may be the path of the image: {listing(named)}; rename all but one to "
                f"something else, or name it (petl predict: --data path={named[0]})"
            )
        return "path"
    asked = {"path": options["path"]} if "path" in options else {}
    return find_roles(table, {**asked, "columns": NO_OTHERS}, need_targets=False).path


def _image(table: ImageTable, number: int, cell: Any, base: Path) -> TableImage:
    image = image_in_cell(cell)
    if image is None:
        what = "no path" if cell is None else f"a {type(cell).__name__} as its path"
        raise DataError(f"{table.name} has {what} in row {number + 1}; give one, or take the row out")
    if isinstance(image, str):
        return TableImage(image, absolute_file(image, base))
    inner = cell.get("path") if isinstance(cell, dict) else None
    return TableImage(inner or f"image {number}", image)
