"""What candidates may cost: parameters, multiply-adds, input size, licence."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from petl.errors import PetlError
from petl.wrapping.licences import LicenceLimit, allowed_licences

UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}


@dataclass(frozen=True)
class Limits:
    """The most that a candidate may have; None is no limit. ``licences`` are the allowed ones."""

    params: float | None = None
    gmacs: float | None = None
    side: float | None = None
    licences: tuple[str, ...] | None = None

    @classmethod
    def of(cls, max_params: Any, max_gmacs: Any, max_side: Any, licence: LicenceLimit, known: list[str]) -> Limits:
        """Returns the limits that a user gave; a PetlError for what can't be one."""
        sizes = [("max_params", max_params), ("max_gmacs", max_gmacs), ("max_side", max_side)]
        params, gmacs, side = (positive(name, value) for name, value in sizes)
        return cls(params, gmacs, side, allowed_licences(licence, known))

    def __bool__(self) -> bool:
        return self != Limits()

    def excess(self, params: float | None, gmacs: float | None, side: int | None) -> str:
        """Returns why something of this size is too much, or ""; what isn't known is within the limits."""
        if self.params is not None and params is not None and params > self.params:
            return f"{params / 1e6:.3g}M parameters, more than max_params={self.params / 1e6:g}M"
        if self.gmacs is not None and gmacs is not None and gmacs > self.gmacs:
            return f"{gmacs:.3g} GMACs, more than max_gmacs={self.gmacs:g}"
        if self.side is not None and side is not None and side > self.side:
            return f"images of {side} px, more than max_side={self.side:g}"
        return ""

    def forbids(self, licence: str | None) -> str:
        """Returns why a licence isn't among the allowed ones, or ""; one that isn't known is not forbidden."""
        if self.licences is None or licence is None or licence in self.licences:
            return ""
        return f"its licence is {licence}"

    def __str__(self) -> str:
        named = {"max_params": self.params, "max_gmacs": self.gmacs, "max_side": self.side}
        said = [f"{name}={value:g}" for name, value in named.items() if value is not None]
        return ", ".join([*said, *([f"licence in {', '.join(self.licences)}"] if self.licences else [])])


def positive(name: str, value: Any) -> float | None:
    """Returns a number above 0, also of a text such as "30M"; None for None.

    >>> positive("max_params", "30M"), positive("max_gmacs", 4)
    (30000000.0, 4.0)
    """
    if value is None:
        return None
    number = math.nan
    if isinstance(value, str) and (match := re.fullmatch(r"\s*([\d.,_]*\d)\s*([kKmMgGbB]?)\s*", value)):
        number = _number(match[1]) * UNITS[match[2].lower()]
    elif not isinstance(value, (bool, str, bytes)) and hasattr(value, "__float__"):
        number = float(value)
    if not number > 0 or math.isinf(number):
        raise PetlError(
            f"{name}={value!r}; expected a number above 0, such as {'30M' if name == 'max_params' else '5'}"
        )
    return number


def _number(text: str) -> float:
    try:
        return float(text.replace(",", "").replace("_", ""))
    except ValueError:
        return math.nan
