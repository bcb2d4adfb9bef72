"""How long the runs of a comparison are: the rungs, and what fits into a number of seconds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from petl.errors import PetlError
from petl.training.length import default_epochs

MOST_RUNGS, LEAST_FIRST_UPDATES = 4, 10  # of the first rung, where an epoch has fewer
SEEDS = 3
UNMEASURED_SHARE = 0.1  # share of the time for what isn't measured: writing, starting workers, telling the result
TIES = 1.5  # so many times the top third are expected to stay in


class TooLittleTime(PetlError):
    """The seconds aren't enough for one epoch of each setting."""


@dataclass(frozen=True)
class Cost:
    """What one run of a setting takes: ``once`` seconds, and ``epoch`` seconds for each epoch."""

    once: float
    epoch: float

    def of(self, epochs: float) -> float:
        return self.once + self.epoch * epochs


@dataclass(frozen=True)
class RunPlan:
    """The epochs that runs have in all at the end of each rung, how many seeds the final has, and a sentence about it."""

    rungs: tuple[int, ...]
    seeds: int
    said: str


def rungs_to(last: int, updates: int) -> tuple[int, ...]:
    """Returns rungs that end with ``last`` epochs, each about three times as long as the one before.

    >>> rungs_to(27, updates=10), rungs_to(10, updates=5), rungs_to(1, updates=3)
    ((1, 3, 9, 27), (3, 10), (1,))
    """
    found = [last]
    while len(found) < MOST_RUNGS and found[0] // 3 and (found[0] // 3) * updates >= LEAST_FIRST_UPDATES:
        found.insert(0, found[0] // 3)
    return tuple(found)


def fixed_plan(epochs: int | None, updates: int, seeds: int) -> RunPlan:
    """Returns the plan that depends on no time: to ``epochs``, or to as many as `petl.fit` chooses."""
    last = epochs or default_epochs(updates)
    rungs = rungs_to(last, updates)
    return RunPlan(rungs, seeds, f"{_listed(rungs)}, without a limit of time")


def plan_within(
    seconds: float,
    costs: Mapping[str, Cost],
    *,
    epochs: int | None,
    updates: int,
    seeds: int,
    jobs: float,
    used: float = 0.0,
) -> RunPlan:
    """Returns the longest plan that is expected to fit into the seconds, with ``jobs`` runs at a time.

    Args:
        costs: Of each setting that trains by gradient, by name.
        epochs: The most that the last rung has; None for as many as `petl.fit` chooses.
        used: Seconds that have passed already.

    Raises:
        TooLittleTime: not even one epoch of each setting fits.
    """
    most, least = epochs or default_epochs(updates), math.ceil(LEAST_FIRST_UPDATES / updates)
    time = (seconds * (1 - UNMEASURED_SHARE) - used) * jobs
    for count, first in ((seeds, least), (1, least), (1, 1)):
        fitting = [rungs for rungs in _all_rungs(min(first, most), most) if expected(rungs, count, costs) <= time]
        if fitting:
            rungs = max(fitting, key=lambda found: (found[-1], len(found)))
            about = expected(rungs, count, costs) / jobs
            return RunPlan(rungs, count, f"{_listed(rungs)}, about {about:.0f} of {seconds:.0f} s")
    first = sum(cost.of(1) for cost in costs.values()) / jobs
    enough = math.ceil((first + used) / (1 - UNMEASURED_SHARE) * 1.5)
    raise TooLittleTime(
        f"seconds={seconds:g} isn't enough for one epoch of each of the {len(costs)} settings: about {first:.3g} s, after "
        f"{used:.3g} s of measuring that; pass seconds={enough} or more, fewer images by images=, or fewer methods"
    )


def _all_rungs(first: int, most: int) -> list[tuple[int, ...]]:
    """Returns all rungs that begin with at least ``first`` epochs and end with at most ``most``, each three times the last."""
    powers = [[3**rung for rung in range(count)] for count in range(1, MOST_RUNGS + 1)]
    starts = range(first, most + 1)
    return [tuple(start * p for p in each) for each in powers for start in starts if start * each[-1] <= most]


def expected(rungs: Sequence[int], seeds: int, costs: Mapping[str, Cost]) -> float:
    """Returns the seconds that a comparison is expected to take, one run at a time."""
    total = sum(cost.of(rungs[0]) for cost in costs.values())
    mean = Cost(
        *(sum(column) / len(costs) for column in zip(*((c.once, c.epoch) for c in costs.values()), strict=True))
    )
    left = len(costs)
    for before, after in itertools.pairwise(rungs):
        left = min(left, max(2, math.ceil(math.ceil(left / 3) * TIES)))
        total += left * mean.of(after - before)
    return total + min(2, len(costs)) * (seeds - 1) * mean.of(rungs[-1])


def _listed(rungs: Sequence[int]) -> str:
    """Returns the rungs in words.

    >>> _listed((1, 3, 9)), _listed((1,))
    ('3 rungs, to 1, 3 and 9 epochs', 'one rung of 1 epoch')
    """
    if len(rungs) == 1:
        return f"one rung of {rungs[0]} epoch{'s' * (rungs[0] != 1)}"
    return f"{len(rungs)} rungs, to {', '.join(map(str, rungs[:-1]))} and {rungs[-1]} epochs"


def as_time_allows(names: Sequence[str], needed: int, costs: Mapping[str, float], time: float) -> list[str]:
    """Returns the first of the names, as many as fit into the time: ``needed`` of them at least, or none if these don't fit.

    >>> as_time_allows(["a", "b", "c"], 2, {"a": 1, "b": 1, "c": 5}, 4)
    ['a', 'b']
    """
    kept: list[str] = []
    for place, name in enumerate(names):
        time -= costs[name]
        if time < 0:
            return kept if place >= needed else []
        kept.append(name)
    return kept
