"""Tables as sources of (image, target): what `petl.data.Images` reads, as it reads a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from petl.data.decoding import open_file
from petl.data.reader_notes import note_similar_names
from petl.data.readers import Reader
from petl.data.table_columns import OPTIONS, find_roles
from petl.data.table_files import ImageTable
from petl.data.table_rows import (
    choose_rows,
    keep_once,
    refuse_shared_files,
    row_files,
    row_groups,
    row_weights,
    split_kinds,
)
from petl.data.table_targets import Targets, row_targets
from petl.errors import DataError, near, printable

log = logging.getLogger(__name__)


class TableReader(Reader):
    """The images of a table's rows with their targets; ``samples`` are (path or image, target).

    ``task`` and ``class_names`` say what the targets are, ``groups`` and ``weights`` are of each image, or None.
    """

    def __init__(
        self, table: ImageTable, images: Sequence[Any], targets: Targets, rows: Sequence[int], notes: Sequence[str]
    ):
        values = targets.values
        super().__init__(Path(os.path.abspath(table.base)), list(zip(images, values, strict=True)), {}, notes)
        self.table, self.rows, self.targets = table, list(rows), values
        self.task, self.class_names, self.absent = targets.task, targets.names, targets.absent
        self.groups: list[str] | None = None
        self.weights: np.ndarray | None = None

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, target = self.samples[index]
        return (open_file(image) if isinstance(image, str) else image), target

    def filename(self, index: int, basename: bool = False, absolute: bool = False) -> str:
        image = self.samples[index][0]
        if not isinstance(image, str):
            return "" if absolute else str(index)
        below = Path(image).is_relative_to(self.root)
        return (
            Path(image).name
            if basename
            else image
            if absolute or not below
            else str(Path(image).relative_to(self.root))
        )


def make_table_reader(
    table: ImageTable,
    *,
    split: str | None,
    classes: Sequence[str] | None = None,
    root: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> TableReader:
    """Returns the images of a split in a table. What is left out is counted in ``notes`` and logged.

    Raises:
        DataError: a column, a split or files aren't there, or cells can't be used; it counts the rows and names the first.
    """
    options = dict(options or {})
    refuse_options(table.name, options)
    roles, notes = find_roles(table, options), []
    rows = choose_rows(table, roles, split)
    if not rows:
        raise DataError(f"{table.name} has no rows for split {split!r}")
    refuse_shared_files(table, roles)
    targets = row_targets(table, roles, rows, classes, options.get("separator"))
    files = row_files(table, roles, rows, Path(root) if root is not None else None)
    kept = keep_once(table, rows, files, targets.values, notes)
    values = np.asarray(targets.values)[kept]
    targets = Targets(targets.task, targets.names, values, targets.absent)
    if targets.task != "regression":
        note_similar_names(targets.names, notes)
    for note in notes:
        log.warning("%s", printable(note))
    rows = [rows[i] for i in kept]
    reader = TableReader(table, [files[i] for i in kept], targets, rows, notes)
    reader.groups, reader.weights = row_groups(table, roles.group, rows), row_weights(table, roles.weight, rows)
    return reader


def refuse_options(name: str, options: Mapping[str, Any]) -> None:
    """Raises a DataError for an option that tables don't have."""
    odd = [key for key in options if key not in OPTIONS]
    if odd:
        raise DataError(
            f"{name} is a table and has no option {odd[0]!r}{near(odd[0], OPTIONS)}; it has {', '.join(OPTIONS)}"
        )


def table_splits(table: ImageTable, options: Mapping[str, Any]) -> list[str]:
    """Returns the splits that a table has, of train, val and test in this order; [] for a table without."""
    kinds = split_kinds(table, find_roles(table, options, need_targets=False))
    return [kind for kind in ("train", "val", "test") if kinds is not None and kind in kinds]
