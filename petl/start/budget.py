"""How the minutes of `petl.start` are shared out among its steps."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from petl.errors import PetlError

SHARES = {"rank": 0.15, "advise": 0.05, "compare": 0.45, "fit": 0.25, "report": 0.10}
LEAST_MINUTES = 0.1
RANKED_IMAGE = 0.1  # seconds that a backbone is expected to take for an image, before any is measured
LEAST_RANKED, MOST_RANKED = 64, 1000  # images


@dataclass
class Budget:
    """Seconds in all, and since when; a step that needs less leaves the rest to those after it."""

    seconds: float
    began: float = field(default_factory=time.perf_counter)

    @classmethod
    def of_minutes(cls, minutes: Any) -> Budget:
        """Returns the budget of so many minutes; a PetlError if that is no number, or too few for anything."""
        good = isinstance(minutes, Real) and not isinstance(minutes, bool) and float(minutes) >= LEAST_MINUTES
        if not good or float(minutes) == float("inf"):
            raise PetlError(f"minutes={minutes!r}; expected a number of minutes, at least {LEAST_MINUTES}")
        return cls(60 * float(minutes))

    def share(self, step: str) -> float:
        """Returns the seconds for a step: its share of what is left, among the steps that are still to come."""
        names = list(SHARES)
        to_come = sum(SHARES[name] for name in names[names.index(step) :])
        return max(self.left, 0.0) * SHARES[step] / to_come

    @property
    def left(self) -> float:
        return self.seconds - (time.perf_counter() - self.began)


def images_to_rank(seconds: float, candidates: int) -> int:
    """Returns how many images to rank on: a number that depends on the budget and the candidates alone.

    >>> images_to_rank(90.0, 2), images_to_rank(2.0, 8)
    (450, 64)
    """
    fitting = int(seconds / (RANKED_IMAGE * max(candidates, 1)))
    return min(MOST_RANKED, max(LEAST_RANKED, fitting))
