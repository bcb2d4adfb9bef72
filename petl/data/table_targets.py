"""What the images of a table are to be learned as: a class, several labels, or numbers, each cell checked."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from petl.data.label_lists import label_lists
from petl.data.odd_rows import refuse_rows, shown
from petl.data.table_columns import Roles
from petl.data.table_files import ImageTable
from petl.data.table_values import is_empty, number, truth, whole_number
from petl.data.tree import natural_order
from petl.errors import listing

FRACTION = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+(\.\d*)?[eE][-+]?\d+)")


@dataclass(frozen=True)
class Targets:
    """Targets of the rows: class numbers, or float32 [N, K] with NaN where a value isn't known, or [N] for one number.

    ``names`` are those of the classes, the labels, or the columns of numbers. ``absent`` is what a label has that the table
    doesn't know: 0 where it lists an image's labels, NaN (not known) where it has a column for each.
    """

    task: str
    names: list[str]
    values: Sequence[int] | np.ndarray
    absent: float = math.nan


def row_targets(
    table: ImageTable, roles: Roles, rows: Sequence[int], classes: Sequence[str] | None, separator: str | None = None
) -> Targets:
    """Returns the targets of these rows.

    Raises:
        DataError: cells are empty, or are no such targets; it counts the rows and names the first.
    """
    columns = [[table.columns[name][row] for row in rows] for name in roles.targets]
    if roles.kind == "label":
        return _class_targets(table, roles.targets[0], columns[0], rows, classes)
    if roles.kind == "labels" and not roles.one_each:
        names, hot = label_lists(table, roles.targets[0], columns[0], rows, separator)
        return Targets("multilabel", names, hot, absent=0.0)
    if roles.kind == "labels":
        advice = (
            "0 or 1 (false, true; empty where it isn't known); one column of several labels in a cell is labels='...'"
        )
        return Targets("multilabel", [*roles.targets], _matrix(table, roles.targets, columns, rows, (truth, advice)))
    matrix = _matrix(table, roles.targets, columns, rows, (number, "a finite number such as 3.5"))
    return Targets("regression", [*roles.targets], matrix[:, 0] if len(columns) == 1 else matrix)


def _class_targets(
    table: ImageTable, name: str, cells: Sequence[Any], rows: Sequence[int], classes: Sequence[str] | None
) -> Targets:
    known = table.names.get(name)
    empty = [i for i, cell in enumerate(cells) if is_empty(cell) or (known is not None and cell == -1)]
    refuse_rows(table, rows, empty, f"have no label in {name!r}", "fill them in, or leave these rows out")
    if known is not None:
        return Targets("classification", [str(one) for one in known], [int(cell) for cell in cells])
    lists = [i for i, cell in enumerate(cells) if not isinstance(cell, (str, int, float))]
    refuse_rows(
        table,
        rows,
        lists,
        f"have a {_kind_of(cells, lists)} in {name!r}",
        f"for several labels: columns={{'labels': {name!r}}}",
    )
    whole = [whole_number(cell) for cell in cells]
    _refuse_fractions(table, name, cells, rows, whole)
    texts = [str(cell).lower() if isinstance(cell, bool) else str(cell) for cell in cells]
    if classes is not None and all(one is not None for one in whole) and not {*texts} & {*classes}:
        return _numbered(table, name, rows, [int(one) for one in whole if one is not None], classes)
    _refuse_mixed(table, name, texts, rows, whole, classes)
    names = sorted({*texts}, key=natural_order)
    numbers = {one: i for i, one in enumerate(names)}
    return Targets("classification", names, [numbers[text] for text in texts])


def _kind_of(cells: Sequence[Any], odd: Sequence[int]) -> str:
    return type(cells[odd[0]]).__name__ if odd else ""


def _refuse_mixed(
    table: ImageTable,
    name: str,
    texts: Sequence[str],
    rows: Sequence[int],
    whole: Sequence[int | None],
    classes: Sequence[str] | None,
) -> None:
    """Raises a DataError for labels of which some are numbers and some names, unless all are classes that were asked for."""
    mixed = [i for i, one in enumerate(whole) if one is None]
    digits = all(text.isdecimal() for text in texts)  # "007" and "10" are names, all of them
    if digits or not 0 < len(mixed) < len(texts) or {*texts} <= {*(classes or ())}:
        return
    first = next(one for one in whole if one is not None)
    what = f"have a name in {name!r} ({texts[mixed[0]]!r}) where others have a number ({first})"
    advice = "write numbers or names alone, or pass the names of all classes to petl.data.dataset as classes="
    refuse_rows(table, rows, mixed, what, advice)


def _refuse_fractions(
    table: ImageTable, name: str, cells: Sequence[Any], rows: Sequence[int], whole: Sequence[int | None]
) -> None:
    """Raises a DataError for labels that are numbers with a decimal point: classes that were read as floats, or no classes."""
    odd = [i for i, cell in enumerate(cells) if isinstance(cell, float) or _is_fraction_text(cell)]
    typed = any(isinstance(cells[i], float) for i in odd)
    if odd and (typed or all(one is not None or i in {*odd} for i, one in enumerate(whole))):
        what = f"have a number with a decimal point in {name!r} ({cells[odd[0]]!r})"
        advice = (
            "classes are names or whole numbers (3, not 3.0); to learn the number itself: "
            f"columns={{'targets': [{name!r}]}} (petl train: --data targets={name})"
        )
        refuse_rows(table, rows, odd, what, advice)


def _is_fraction_text(cell: Any) -> bool:
    return isinstance(cell, str) and FRACTION.fullmatch(cell) is not None


def _numbered(
    table: ImageTable, name: str, rows: Sequence[int], numbers: Sequence[int], classes: Sequence[str]
) -> Targets:
    """Returns class numbers that mean these classes by their order."""
    odd = [i for i, one in enumerate(numbers) if not 0 <= one < len(classes)]
    what = f"have a class number in {name!r} that isn't one of the {len(classes)} classes ({listing(classes)})"
    refuse_rows(table, rows, odd, what, f"expected 0 to {len(classes) - 1}")
    return Targets("classification", list(classes), numbers)


def _matrix(
    table: ImageTable,
    names: Sequence[str],
    columns: Sequence[Sequence[Any]],
    rows: Sequence[int],
    kind: tuple[Callable[[Any], float | None], str],
) -> np.ndarray:
    """Returns the values [N, K] of columns of numbers; NaN is an empty cell."""
    read, expected = kind
    values = np.full((len(rows), len(names)), np.nan, dtype=np.float32)
    for k, (name, cells) in enumerate(zip(names, columns, strict=True)):
        found = [read(cell) for cell in cells]
        odd = [i for i, one in enumerate(found) if one is None]
        refuse_rows(table, rows, odd, f"have {shown(cells, odd)} in {name!r}", f"expected {expected}")
        values[:, k] = found
    empty = np.flatnonzero(np.isnan(values).all(1)).tolist()
    refuse_rows(
        table, rows, empty, f"have no value in {listing(map(repr, names))}", "fill them in, or leave these rows out"
    )
    return values
