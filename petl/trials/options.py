"""The arguments of `compare` that are numbers, each refused where it can't be."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from petl.errors import PetlError
from petl.training.setting_checks import ABOVE_ZERO, INFINITY, LARGEST_FINITE, Bounds, refuse_number

BOUNDS = {
    "seconds": Bounds(Real, ABOVE_ZERO, LARGEST_FINITE, "a number above 0, or None for no limit", optional=True),
    "epochs": Bounds(Integral, 1, INFINITY, "at least 1, or None", optional=True),
    "seeds": Bounds(Integral, 1, INFINITY, "at least 1"),
    "margin": Bounds(Real, 0, LARGEST_FINITE, "0 or above, such as 0.01 for a point, or None", optional=True),
    "batch_size": Bounds(Integral, 1, INFINITY, "at least 1"),
    "workers": Bounds(Integral, 0, INFINITY, "at least 0"),
}
FACTOR_BOUNDS = Bounds(Real, ABOVE_ZERO, LARGEST_FINITE, "factors above 0 of the default rates, such as (1/3, 1, 3)")


def refuse_arguments(*, factors: Any, **numbers: Any) -> None:
    """Raises a PetlError for the first argument that can't be."""
    for name, value in numbers.items():
        refuse_number(name, value, BOUNDS[name])
    if isinstance(factors, str) or not isinstance(factors, Sequence) or not factors:
        raise PetlError(f"factors={factors!r}; expected {FACTOR_BOUNDS.words}")
    for factor in factors:
        refuse_number("factors", factor, FACTOR_BOUNDS)
    if len({f"{factor:.2g}" for factor in factors}) < len(factors):
        raise PetlError(f"factors={tuple(factors)!r} has the same twice; expected {FACTOR_BOUNDS.words}")
