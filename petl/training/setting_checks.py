"""Refuses values that a setting can't have: numbers out of bounds, and values of another kind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

from petl.errors import PetlError, near

INFINITY = math.inf
LARGEST_FINITE = math.nextafter(math.inf, 0)  # the largest finite number
ABOVE_ZERO = math.ulp(0.0)
BELOW_ONE = math.nextafter(1, 0)


class Bounds(NamedTuple):
    """The numbers that a setting may be: its kind, the least and the largest, both in words, and whether it may be None."""

    kind: type[Integral] | type[Real]
    least: float
    largest: float
    words: str
    optional: bool = False


def refuse_number(name: str, value: Any, bounds: Bounds) -> None:
    """Raises a PetlError for what is no number of that kind, or out of bounds; True is no number."""
    if value is None and bounds.optional:
        return
    good = isinstance(value, bounds.kind) and not isinstance(value, bool)
    if not good or not bounds.least <= float(value) <= bounds.largest:  # type: ignore[arg-type]  # a number, as just seen
        whole = "a whole number, " if bounds.kind is Integral else ""
        raise PetlError(f"{name}={value!r}; expected {whole}{bounds.words}")


def refuse_numbers(settings: object, bounds: Mapping[str, Bounds]) -> None:
    """Raises a PetlError for the first of these attributes that is out of its bounds."""
    for name, limits in bounds.items():
        refuse_number(name, getattr(settings, name), limits)


def refuse_kinds(settings: object, kinds: Mapping[str, tuple[tuple[Any, ...], str]]) -> None:
    """Raises a PetlError for the first of these attributes that is of none of its types, or an empty text."""
    for name, (types, expected) in kinds.items():
        value = getattr(settings, name)
        if not isinstance(value, types) or value == "":
            raise PetlError(f"{name}={value!r}; expected {expected}")


def refuse_unknown_options(function: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises a PetlError for the first keyword argument that a function doesn't take."""
    for name in options:
        if name not in known:
            raise PetlError(f"{function} has no option {name!r}{near(name, known)}; it has {', '.join(known)}")


def refuse_keys(keys: Any) -> None:
    """Raises a PetlError for what can't name the two parts of a batch."""
    good = isinstance(keys, Sequence) and not isinstance(keys, (str, bytes)) and len(keys) == 2
    if keys is not None and not (good and all(isinstance(k, (str, int)) and not isinstance(k, bool) for k in keys)):
        raise PetlError(
            f"keys={keys!r}; expected the names or numbers of two parts, such as ('image', 'label') or (0, 1)"
        )
