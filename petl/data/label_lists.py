"""Several labels in a cell: texts with separators, lists, or the texts of lists."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from petl.data.odd_rows import refuse_rows, shown
from petl.data.table_files import ImageTable
from petl.data.table_values import is_empty
from petl.data.tree import natural_order
from petl.errors import DataError

SEPARATORS = ("|", ";", ",")


def label_lists(
    table: ImageTable, name: str, cells: Sequence[Any], rows: Sequence[int], separator: str | None
) -> tuple[list[str], np.ndarray]:
    """Returns the names of all labels in cells that list them, and 0 or 1 [N, K]. Cells are separated texts, or lists.

    Raises:
        DataError: cells are empty or hold something else, or it can't be known what separates the labels.
    """
    empty = [i for i, cell in enumerate(cells) if is_empty(cell)]
    refuse_rows(table, rows, empty, f"have no labels in {name!r}", "write [] for an image with none of them")
    if separator is None:
        separator = _separator_of(table, name, cells)
    lists = [_labels_in(cell, separator) for cell in cells]
    odd = [i for i, labels in enumerate(lists) if labels is None]
    refuse_rows(
        table, rows, odd, f"have no labels in {name!r} but {shown(cells, odd)}", "write cat|dog, or a list of texts"
    )
    found = {label for labels in lists for label in labels or ()}
    names = [*table.names.get(name, ())] or sorted(found, key=natural_order)
    if names and {*names} <= {"0", "1"}:
        raise DataError(
            f"{table.name}: {name!r} holds 0 and 1 alone; columns={{'labels': [{name!r}]}} (petl train: --data "
            f"'labels=[\"{name}\"]') takes a column that says yes or no, columns={{'label': {name!r}}} takes them for two classes"
        )
    columns = {one: i for i, one in enumerate(names)}
    hot = np.zeros((len(lists), len(names)), dtype=np.float32)
    for row, labels in zip(hot, lists, strict=True):
        row[[columns[label] for label in labels or ()]] = 1
    return names, hot


def _separator_of(table: ImageTable, name: str, cells: Sequence[Any]) -> str:
    """Returns what separates the labels in a cell."""
    texts = [cell for cell in cells if isinstance(cell, str) and not cell.startswith("[")]
    found = [one for one in SEPARATORS if any(one in text for text in texts)]
    if len(found) > 1:
        raise DataError(
            f"{table.name}: the labels in {name!r} may be separated by {' or '.join(map(repr, found))}; say by which: "
            f"separator={found[0]!r} (petl train: --data 'separator={found[0]}')"
        )
    return found[0] if found else SEPARATORS[0]


def _labels_in(cell: Any, separator: str) -> list[str] | None:
    """Returns the labels in a cell, or None where it holds something else."""
    if isinstance(cell, str) and cell.startswith("[") and cell.endswith("]"):
        cell = _list_in(cell)
    if isinstance(cell, str):
        return [label for part in cell.split(separator) if (label := part.strip())]
    if hasattr(cell, "tolist"):
        cell = cell.tolist()
    if isinstance(cell, (set, frozenset)):
        cell = sorted(cell, key=str)
    if isinstance(cell, int) and not isinstance(cell, bool):
        return [str(cell)]
    if not isinstance(cell, (list, tuple)) or not all(type(one) in (str, int) for one in cell):
        return None
    return [str(one).strip() for one in cell]


def _list_in(text: str) -> Any:
    """Returns the list that a text is, as JSON or as Python writes it; the text where it is none."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text
