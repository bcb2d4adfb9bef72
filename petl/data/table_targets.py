"""What the images of a table are to be learned as: a class, several labels, or numbers, each cell checked."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from petl.data.table_columns import Roles
from petl.data.table_files import Table
from petl.data.table_values import number, truth, whole_number
from petl.data.tree import natural_order
from petl.errors import DataError, listing

FRACTION = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+(\.\d*)?[eE][-+]?\d+)")
SEPARATORS = ("|", ";", ",")


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


def read_targets(
    table: Table, roles: Roles, rows: Sequence[int], classes: Sequence[str] | None, separator: str | None = None
) -> Targets:
    """Returns the targets of these rows.

    Raises:
        DataError: cells are empty, or are no such targets; it counts the rows and names the first.
    """
    columns = [[table.columns[name][row] for row in rows] for name in roles.targets]
    if roles.kind == "label":
        return _class_targets(table, roles.targets[0], columns[0], rows, classes)
    if roles.kind == "labels" and not roles.one_each:
        return _label_lists(table, roles.targets[0], columns[0], rows, separator)
    if roles.kind == "labels":
        advice = (
            "0 or 1 (false, true; empty where it isn't known); one column of several labels in a cell is labels='...'"
        )
        return Targets("multilabel", [*roles.targets], _matrix(table, roles.targets, columns, rows, (truth, advice)))
    matrix = _matrix(table, roles.targets, columns, rows, (number, "a finite number such as 3.5"))
    return Targets("regression", [*roles.targets], matrix[:, 0] if len(columns) == 1 else matrix)


def refuse_rows(table: Table, rows: Sequence[int], odd: Iterable[int], what: str, advice: str) -> None:
    """Raises a DataError if there are odd ones (positions in ``rows``): how many, and the first."""
    if numbers := [rows[position] + 1 for position in odd]:
        count = "1 row" if len(numbers) == 1 else f"{len(numbers)} rows"
        raise DataError(f"{table.name}: {count} of {len(rows)} {what}, the first is row {numbers[0]}; {advice}")


def _class_targets(
    table: Table, name: str, cells: Sequence[Any], rows: Sequence[int], classes: Sequence[str] | None
) -> Targets:
    known = table.names.get(name)
    empty = [i for i, cell in enumerate(cells) if _is_empty(cell) or (known is not None and cell == -1)]
    refuse_rows(table, rows, empty, f"have no label in {name!r}", "fill them in, or leave these rows out")
    if known is not None:
        return Targets("classification", [str(one) for one in known], [int(cell) for cell in cells])
    lists = [i for i, cell in enumerate(cells) if not isinstance(cell, (str, int, float))]
    refuse_rows(
        table, rows, lists, f"have a {_kind_of(cells, lists)} in {name!r}", f"for several labels: labels={name!r}"
    )
    whole = [whole_number(cell) for cell in cells]
    _refuse_fractions(table, name, cells, rows, whole)
    texts = [str(cell).lower() if isinstance(cell, bool) else str(cell) for cell in cells]
    if classes is not None and all(one is not None for one in whole) and not {*texts} & {*classes}:
        return _numbered(table, name, rows, [int(one) for one in whole if one is not None], classes)
    mixed = [i for i, one in enumerate(whole) if one is None]
    if 0 < len(mixed) < len(cells) and not (classes is not None and {*texts} <= {*classes}):
        first = next(cell for cell, one in zip(cells, whole, strict=True) if one is not None)
        what = f"have a name in {name!r} ({cells[mixed[0]]!r}) where others have a number ({first!r})"
        advice = "write numbers or names alone, or pass the names of all classes: petl.data.dataset(..., classes=[...])"
        refuse_rows(table, rows, mixed, what, advice)
    names = sorted({*texts}, key=natural_order)
    numbers = {one: i for i, one in enumerate(names)}
    return Targets("classification", names, [numbers[text] for text in texts])


def _is_empty(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and cell.lower() == "nan")


def _kind_of(cells: Sequence[Any], odd: Sequence[int]) -> str:
    return type(cells[odd[0]]).__name__ if odd else ""


def _refuse_fractions(
    table: Table, name: str, cells: Sequence[Any], rows: Sequence[int], whole: Sequence[int | None]
) -> None:
    """Raises a DataError for labels that are numbers with a decimal point: classes that were read as floats, or no classes."""
    odd = [i for i, cell in enumerate(cells) if isinstance(cell, float) or _is_fraction_text(cell)]
    typed = any(isinstance(cells[i], float) for i in odd)
    if odd and (typed or all(one is not None or i in {*odd} for i, one in enumerate(whole))):
        what = f"have a number with a decimal point in {name!r} ({cells[odd[0]]!r})"
        advice = f"classes are names or whole numbers (3, not 3.0); to learn the number itself: targets=[{name!r}]"
        refuse_rows(table, rows, odd, what, advice)


def _is_fraction_text(cell: Any) -> bool:
    return isinstance(cell, str) and FRACTION.fullmatch(cell) is not None


def _numbered(table: Table, name: str, rows: Sequence[int], numbers: Sequence[int], classes: Sequence[str]) -> Targets:
    """Returns class numbers that mean these classes by their order."""
    odd = [i for i, one in enumerate(numbers) if not 0 <= one < len(classes)]
    what = f"have a class number in {name!r} that isn't one of the {len(classes)} classes ({listing(classes)})"
    refuse_rows(table, rows, odd, what, f"expected 0 to {len(classes) - 1}")
    return Targets("classification", list(classes), numbers)


def _label_lists(table: Table, name: str, cells: Sequence[Any], rows: Sequence[int], separator: str | None) -> Targets:
    """Returns the labels of cells that list them: separated texts, lists, or texts of lists."""
    empty = [i for i, cell in enumerate(cells) if _is_empty(cell)]
    refuse_rows(table, rows, empty, f"have no labels in {name!r}", "write [] for an image with none of them")
    if separator is None:
        separator = _separator_of(table, name, cells)
    lists = [_labels_in(cell, separator) for cell in cells]
    odd = [i for i, labels in enumerate(lists) if labels is None]
    refuse_rows(
        table, rows, odd, f"have no labels in {name!r} but {_shown(cells, odd)}", "write cat|dog, or a list of texts"
    )
    names = sorted({label for labels in lists for label in labels or ()}, key=natural_order)
    if names and {*names} <= {"0", "1"}:
        raise DataError(
            f"{table.name}: {name!r} holds 0 and 1 alone; labels=[{name!r}] (petl train: --data 'labels=[\"{name}\"]') takes a "
            f"column that says yes or no, label={name!r} takes them for two classes"
        )
    columns = {one: i for i, one in enumerate(names)}
    hot = np.zeros((len(lists), len(names)), dtype=np.float32)
    for row, labels in zip(hot, lists, strict=True):
        row[[columns[label] for label in labels or ()]] = 1
    return Targets("multilabel", names, hot, absent=0.0)


def _shown(cells: Sequence[Any], odd: Sequence[int]) -> str:
    return repr(cells[odd[0]])[:60] if odd else ""


def _separator_of(table: Table, name: str, cells: Sequence[Any]) -> str:
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


def _matrix(
    table: Table,
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
        refuse_rows(table, rows, odd, f"have {_shown(cells, odd)} in {name!r}", f"expected {expected}")
        values[:, k] = found
    empty = np.flatnonzero(np.isnan(values).all(1)).tolist()
    refuse_rows(
        table, rows, empty, f"have no value in {listing(map(repr, names))}", "fill them in, or leave these rows out"
    )
    return values
