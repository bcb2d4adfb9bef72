"""Checks the values of methods: JSON, finite, and of a size that the file bears out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from petl.errors import DeltaError
from petl.format.texts import is_text, short_repr

NOT_SIZES = (
    "seed",
    "prng",
    "step",
    "tinit",
    "tfinal",
    "delta",
)  # words in the names of integers that make nothing large
TABLE_OPTIONS = (
    "rank_pattern",
    "alpha_pattern",
    "lambda_pattern",
    "block_size_pattern",
    "n_frequency_pattern",
)  # peft's
DEEPEST_OPTION = 16  # tables and lists in each other in a method's options
LARGEST_OPTION = 2**20
LARGEST_FOREIGN = 1024  # for another library's tuners, unless a tensor in the file is as large


def refuse_unwritable(values: Any, what: str) -> None:
    """A DeltaError where values can't be written as JSON and read again as they are."""
    try:
        text = json.dumps(values)
        json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise DeltaError(f"{what} must be JSON values, such as numbers, texts and lists of them ({error})") from None


def are_methods(value: Any) -> bool:
    if not isinstance(value, list) or len(value) > 64:
        return False
    return all(isinstance(item, dict) and is_text(item.get("name")) and _finite(item) for item in value)


def _finite(value: Any, depth: int = 0) -> bool:
    """Whether all numbers in there are, and no list or table lies deeper in others than any option's."""
    if isinstance(value, float):
        return math.isfinite(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth < DEEPEST_OPTION and all(_finite(part, depth + 1) for part in parts)


def oversized(methods: Iterable[Mapping[str, Any]], shapes: Mapping[str, tuple[int, ...]] | None = None) -> list[str]:
    """Sizes that can't be: of petl's methods beyond any use, of other libraries' beyond what the file bears out.

    A rank of a million has a tensor with as many numbers. Without ``shapes`` only the first is looked at.
    """
    most = max([LARGEST_FOREIGN, *(math.prod(shape) for shape in (shapes or {}).values())])
    return [
        f"methods ({item['name']} has {key}={short_repr(value)})"
        for item in methods
        for key, value in _integers(item)
        if abs(value) > (most if item["name"] == "peft" and shapes is not None else LARGEST_OPTION)
        and not any(word in key.lower() for word in NOT_SIZES)
    ]


def _integers(value: Any, key: str = "") -> list[tuple[str, int]]:
    if isinstance(value, dict):  # a table of layers' names, such as rank_pattern, keeps its own name
        return [
            pair for name, item in value.items() for pair in _integers(item, key if key in TABLE_OPTIONS else str(name))
        ]
    if isinstance(value, list):
        return [pair for item in value for pair in _integers(item, key)]
    return [(key, value)] if isinstance(value, int) and not isinstance(value, bool) else []
