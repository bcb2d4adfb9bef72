"""``cycles=``: a schedule that starts anew after some epochs, each part with its own warm-up and decay (arXiv:1608.03983)."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

from petl.errors import PetlError


def checked_cycles(cycles: Any, epochs: int | None) -> tuple[int, ...]:
    """Returns the epochs after which each part ends, as a tuple.

    Raises:
        PetlError: they are no rising whole numbers, or there are fewer epochs than the training has.

    >>> checked_cycles([3, 9], epochs=9)
    (3, 9)
    """
    ends = list(cycles.tolist() if hasattr(cycles, "tolist") else cycles) if _is_sequence(cycles) else []
    whole = all(isinstance(end, Integral) and not isinstance(end, bool) for end in ends)
    if not ends or not whole or ends[0] < 1 or any(after <= end for end, after in itertools.pairwise(ends)):
        raise PetlError(
            f"cycles={cycles!r}; expected the epochs after which each part of the schedule ends, rising, such as (3, 9, 27)"
        )
    if epochs is not None and epochs > ends[-1]:
        raise PetlError(f"epochs={epochs} with cycles={tuple(ends)}, which end after {ends[-1]}; give more cycles")
    return tuple(int(end) for end in ends)


def _is_sequence(value: Any) -> bool:
    return (isinstance(value, Sequence) and not isinstance(value, (str, bytes))) or hasattr(value, "tolist")


class CycledSchedule:
    """timm's schedules one after the other, each as long as its part of the training, under the one name that they have.

    The rate of an update depends on the ends of the parts alone, not on how long the training is: one that stops after a part,
    and goes on later, has the rates of an unbroken one.
    """

    def __init__(self, make: Callable[[int], Any], ends: Sequence[int], updates_per_epoch: int):
        starts = [0, *ends[:-1]]
        self.starts = [start * updates_per_epoch for start in starts]
        # the last that is made leaves its first rate in the optimizer: so the first part comes last
        made = [make(end - start) for start, end in reversed([*zip(starts, ends, strict=True)])]
        self.parts = made[::-1]

    def step_update(self, updates: int) -> None:
        """Sets the rates of the update after ``updates`` of them."""
        part = bisect.bisect_right(self.starts, updates) - 1
        self.parts[part].step_update(updates - self.starts[part])
