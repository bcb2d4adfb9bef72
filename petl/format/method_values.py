"""Checks the values of methods: they are JSON, finite, and no size is larger than the file's tensors allow."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from petl.errors import DeltaError
from petl.format.texts import is_text, short_repr

# parts of the names of integers that don't set the size of a tensor
NOT_SIZES = ("seed", "prng", "step", "tinit", "tfinal", "delta")
# options of peft's whose keys are names of layers
TABLE_OPTIONS = ("rank_pattern", "alpha_pattern", "lambda_pattern", "block_size_pattern", "n_frequency_pattern")
DEEPEST_OPTION = 16  # levels of nested tables and lists in a method's options
LARGEST_OPTION = 2**20
LARGEST_FOREIGN = 1024  # for another library's methods, unless a tensor in the file is as large


def refuse_unwritable(values: Any, what: str) -> None:
    """Raises a DeltaError where the values can't be written as JSON and read back."""
    try:
        text = json.dumps(values)
        json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise DeltaError(f"{what} must be JSON values, such as numbers, texts and lists of them ({error})") from None


def are_methods(value: Any) -> bool:
    """Returns whether the value is a list of methods: tables with a name and finite numbers."""
    if not isinstance(value, list) or len(value) > 64:
        return False
    return all(isinstance(item, dict) and is_text(item.get("name")) and _finite(item) for item in value)


def _finite(value: Any, depth: int = 0) -> bool:
    """Returns whether all numbers in the value are finite, and lists and tables are nested at most ``DEEPEST_OPTION`` deep."""
    if isinstance(value, float):
        return math.isfinite(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth < DEEPEST_OPTION and all(_finite(part, depth + 1) for part in parts)


def oversized(methods: Iterable[Mapping[str, Any]], shapes: Mapping[str, tuple[int, ...]] | None = None) -> list[str]:
    """Returns the options that are too large: for petl's methods beyond any use, for other libraries' beyond the file's tensors.

    A rank of a million needs a tensor with as many numbers. Without ``shapes`` the second limit isn't checked.
    """
    largest_foreign = max([LARGEST_FOREIGN, *(math.prod(shape) for shape in (shapes or {}).values())])
    return [
        f"methods ({item['name']} has {key}={short_repr(value)})"
        for item in methods
        for key, value in _integers(item)
        if abs(value) > (largest_foreign if item["name"] == "peft" and shapes is not None else LARGEST_OPTION)
        and not any(word in key.lower() for word in NOT_SIZES)
    ]


def _integers(value: Any, key: str = "") -> list[tuple[str, int]]:
    """Returns (option's name, number) for every integer in the value, nested ones too."""
    if isinstance(value, dict):  # in a table by layers, such as rank_pattern, the name is the option's, not the layer's
        return [
            pair for name, item in value.items() for pair in _integers(item, key if key in TABLE_OPTIONS else str(name))
        ]
    if isinstance(value, list):
        return [pair for item in value for pair in _integers(item, key)]
    return [(key, value)] if isinstance(value, int) and not isinstance(value, bool) else []
