"""Checks texts in a delta's header, and shortens values for messages."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import Any

LONGEST_TEXT = 1000
MOST_NAMES = 2**18
DEEPEST_JSON = 100  # lists and tables in each other; Python's own limit depends on who calls
LARGEST_FLOAT = int(sys.float_info.max)


def is_utf8(text: str) -> bool:
    """Returns whether the text can be encoded as UTF-8."""
    try:
        return bool(text.encode()) or not text
    except UnicodeEncodeError:
        return False


def is_text(value: Any) -> bool:
    """Returns whether the value is a text of at most ``LONGEST_TEXT`` characters, none of them half a character."""
    return isinstance(value, str) and len(value) <= LONGEST_TEXT and is_utf8(value)


def are_texts(value: Any) -> bool:
    """Returns whether the value is a list of at most ``MOST_NAMES`` texts."""
    return isinstance(value, list) and len(value) <= MOST_NAMES and all(is_text(item) for item in value)


def is_table_of_texts(value: Any) -> bool:
    """Returns whether the value is a dict from texts to texts."""
    return (
        isinstance(value, dict)
        and len(value) <= 4096
        and all(is_text(key) and is_text(item) for key, item in value.items())
    )


def parsed_json(text: str | bytes, **options: Any) -> Any:
    """Returns the value of a JSON text from a file.

    Raises:
        ValueError: it is no JSON, has a whole number that is too large for any float, or is nested deeper than ``DEEPEST_JSON``.
        RecursionError: it is nested deeper than Python reads.
    """
    value = json.loads(text, parse_int=_whole, **options)
    level: list[Any] = [[value]]
    for _ in range(DEEPEST_JSON + 1):
        inside = (item.values() if isinstance(item, dict) else item for item in level)
        level = [one for items in inside for one in items if isinstance(one, (dict, list))]
        if not level:
            return value
    raise ValueError(f"it is nested more than {DEEPEST_JSON} deep")


def _whole(digits: str) -> int:
    number = int(digits)
    if abs(number) > LARGEST_FLOAT:
        raise ValueError(f"a number of {len(digits):,} digits")
    return number


def is_finite_number(value: Any) -> bool:
    """Returns whether the value is a finite number, no bool, that a float can hold.

    >>> is_finite_number(0.5), is_finite_number(10**400), is_finite_number(float("nan")), is_finite_number(True)
    (True, False, False, False)
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST_FLOAT <= value <= LARGEST_FLOAT


def short_repr(value: Any) -> str:
    """Returns the ``repr`` of a value, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def json_text(value: Any, default: Callable[[Any], Any] = str, **options: Any) -> str:
    """Returns the value as JSON; null stands for NaN and infinite numbers, which JSON hasn't.

    ``default`` returns what stands for an object of another kind.

    >>> json_text({"r2": float("nan"), "rows": (1.5, -float("inf"))})
    '{"r2": null, "rows": [1.5, null]}'
    """
    return json.dumps(_json_value(value), allow_nan=False, default=lambda other: _json_value(default(other)), **options)


def _json_value(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    return [_json_value(item) for item in value] if isinstance(value, (list, tuple)) else value
