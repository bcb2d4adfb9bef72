"""The error for rows of a table that can't be used: how many there are, and the first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from petl.data.table_files import ImageTable
from petl.errors import DataError


def refuse_rows(table: ImageTable, rows: Sequence[int], odd: Iterable[int], what: str, advice: str) -> None:
    """Raises a DataError if there are odd ones (positions in ``rows``): how many, and the first."""
    if numbers := [rows[position] + 1 for position in odd]:
        raise DataError(
            f"{table.name}: {len(numbers)} of {len(rows)} rows {what}, the first is row {numbers[0]}; {advice}"
        )


def shown(cells: Sequence[Any], odd: Sequence[int]) -> str:
    """Returns the first of the odd cells, for a message."""
    return repr(cells[odd[0]])[:60] if odd else ""
