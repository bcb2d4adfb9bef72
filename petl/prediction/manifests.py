"""Lists of images in a table: the column of a CSV that holds their paths."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from petl.errors import DataError, listing

TABLES = {".csv": ",", ".tsv": "\t"}  # ending -> what stands between two cells
PATH_COLUMNS = ("path", "image", "file", "filename", "filepath", "image_path", "file_name")


def is_table(path: Path) -> bool:
    """Returns whether a file is a table of images, by its ending."""
    return path.suffix.lower() in TABLES


def path_column(columns: Iterable[str], table: str) -> str:
    """Returns the name of the column that holds paths, or raises a DataError."""
    known = {str(name).strip().lower(): name for name in columns if name}
    column = next((known[name] for name in PATH_COLUMNS if name in known), None)
    if column is None:
        raise DataError(
            f"{table} has no column of paths: expected one named {', '.join(PATH_COLUMNS)}, found {listing(known) or 'none'}"
        )
    return column


def listed_paths(path: Path) -> list[str]:
    """Returns the paths in a table's column ``path`` (or ``image``, ``file`` ...), in its order and as they are written.

    Raises:
        DataError: it can't be read, has no such column, or no path in a line.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = csv.DictReader(file, delimiter=TABLES[path.suffix.lower()])
            column = path_column(rows.fieldnames or (), str(path))
            paths = [row[column] for row in rows]
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} can't be read as a table: {error}") from error
    if (empty := next((line for line, name in enumerate(paths, 2) if not name), None)) is not None:
        raise DataError(f"{path} has no path in row {empty}; give one, or take the row out")
    if not paths:
        raise DataError(f"{path} lists no image: it has a head, and no row")
    return paths
