"""Cells of tables: which ones are empty, which are whole numbers, truth values or other numbers."""

from __future__ import annotations

import math
import re
from typing import Any

WHOLE = re.compile(r"-?(?:0|[1-9]\d*)")  # "007" is a name: as a number it would lose its zeros
TRUE, FALSE = ("1", "1.0", "true", "yes", "t", "y"), ("0", "0.0", "false", "no", "f", "n")
NOT_A_NUMBER = ("", "nan", "na", "n/a", "null", "none", "?")  # how tables write that a number isn't known


def plain(value: Any) -> Any:
    """Returns a cell as one of Python's own values; None where it is empty (None, NaN, pandas' NA, blank text).

    >>> [plain(value) for value in (" cat ", "", float("nan"), None, 3)]
    ['cat', None, None, None, 3]
    """
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float) and math.isnan(value):
        return None
    return None if type(value).__name__ in ("NAType", "NaTType") else value


def whole_number(value: Any) -> int | None:
    """Returns a cell as a whole number, or None where it is none; of texts, those that are written as such a number.

    >>> [whole_number(value) for value in (3, "3", "007", "3.0", 3.0, True, "cat")]
    [3, 3, None, None, None, None, None]
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and WHOLE.fullmatch(value) else None


def number(value: Any) -> float | None:
    """Returns a cell as a number: NaN for a cell that is empty, None for one that is no finite number.

    >>> [number(value) for value in ("1.5", 2, "na", "cat", "inf")]
    [1.5, 2.0, nan, None, None]
    """
    if value is None or (isinstance(value, str) and value.lower() in NOT_A_NUMBER):
        return math.nan
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def truth(value: Any) -> float | None:
    """Returns a cell as 1.0 or 0.0: NaN for an empty cell, None for one that is neither.

    >>> [truth(value) for value in ("1", 0, True, "no", None, "2")]
    [1.0, 0.0, 1.0, 0.0, nan, None]
    """
    if value is None or (isinstance(value, str) and value.lower() in NOT_A_NUMBER):
        return math.nan
    text = str(value).lower()
    return 1.0 if text in TRUE else 0.0 if text in FALSE else None


def is_empty(cell: Any) -> bool:
    """Returns whether a cell has no label: it is empty, or says that it is no number."""
    return cell is None or (isinstance(cell, str) and cell.lower() == "nan")
