"""``KEY=VALUE`` words of a command line: parsed, and checked against the types that a function takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from petl.errors import ITEM, MethodError, near, printable, shortened


def parse_pairs(words: Sequence[str] | None) -> dict[str, Any]:
    """Returns ``KEY=VALUE`` words as a dict; values are JSON where they can be, lists at commas, else text.

    >>> parse_pairs(["rank=8", "where=linear,conv", "dora=true", "slices=qv"])
    {'rank': 8, 'where': ['linear', 'conv'], 'dora': True, 'slices': 'qv'}
    """
    split = [word.partition("=") for word in words or ()]
    for key, equals, _ in split:
        if not key or not equals:
            raise MethodError(f"got {shortened(key, ITEM)!r}; expected KEY=VALUE, such as rank=8")
    return {key: _value(text) for key, _, text in split}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return [_value(part) for part in text.split(",")] if "," in text else text


def number_or_word(text: str | None) -> float | str | None:
    """Returns a number where the text is one, else the text.

    >>> number_or_word("1e-3"), number_or_word("find")
    (0.001, 'find')
    """
    try:
        return text if text is None else float(text)
    except ValueError:
        return text


def keyword_arguments(
    function: Callable[..., Any], words: Sequence[str] | None, but: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns ``KEY=VALUE`` words as keyword arguments of ``function``; those in ``but`` have options of their own."""
    hints = {key: hint for key, hint in get_type_hints(function).items() if key not in (*but, "return")}
    return check_types(function.__name__, hints, parse_pairs(words))


def check_types(name: str, hints: Mapping[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Returns the values, or raises a MethodError if they are no options of ``name`` or of other types."""
    for key, value in values.items():
        if key not in hints:
            raise MethodError(f"{name} has no option {key!r}{near(key, hints)}; it has {', '.join(hints)}")
        if not _fits(value, hints[key]):
            said = shortened(printable(_as_text(value)), ITEM)
            raise MethodError(f"{key}={said} can't be; expected {_describe_type(hints[key])}")
    return values


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _fits(value: Any, hint: Any) -> bool:
    """Returns whether the value is of the type; types that a command line can't write are left to the function."""
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    if hint in (str, bool, type(None)):
        return isinstance(value, hint)
    if hint is Mapping:
        return isinstance(value, dict)
    inner = [one for one in get_args(hint) if one in (int, float)]  # of a sequence of numbers
    good = isinstance(value, list) and all(_fits(part, inner[0]) for part in (value if inner else ()))
    return hint is Any or ((get_origin(hint) or hint) is Sequence and good)


def _describe_type(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(dict.fromkeys(_describe_type(one) for one in get_args(hint) if one is not type(None)))
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
    if hint is Mapping:
        return "options such as augment.hflip=0"
    numbers = any(one in (int, float) for one in get_args(hint))
    return plain.get(hint, f"{'numbers' if numbers else 'values'} with commas between them")
