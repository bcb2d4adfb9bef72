"""How long the runs of a comparison are: the rungs, and what fits into a number of seconds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from petl.training.length import default_epochs
from petl.trials.too_little import UNMEASURED_SHARE, too_little

MOST_RUNGS = 4
LEAST_FIRST_UPDATES = 30  # of the first rung: after 15, rates times three look ten points worse than they are later
SEEDS = 3
TIES = 1.5  # so many times the top third are expected to stay in


@dataclass(frozen=True)
class Cost:
    """What one run of a setting takes: ``once`` seconds, and ``epoch`` seconds for each epoch."""

    once: float
    epoch: float

    def of(self, epochs: float) -> float:
        return self.once + self.epoch * epochs


@dataclass(frozen=True)
class RunPlan:
    """The epochs that runs have in all at the end of each rung, how many seeds the final has, and a sentence about it.

    ``entry`` says what is in the first rung: "all", or "middle": each method with the rates nearest to the default ones, and the
    other rates only of the best third of the methods.
    """

    rungs: tuple[int, ...]
    seeds: int
    said: str
    entry: str = "all"
    third: int = 0  # of the whole length, which comes before more seeds where time is short


def rungs_to(last: int, updates: int) -> tuple[int, ...]:
    """Returns rungs that end with ``last`` epochs, each about three times as long as the one before.

    >>> rungs_to(27, updates=30), rungs_to(10, updates=10), rungs_to(1, updates=3)
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
    middle: Collection[str] = (),
) -> RunPlan:
    """Returns the best plan that is expected to fit into the seconds, with ``jobs`` runs at a time.

    A third of the whole length comes first; then that the first rung has 30 updates, and that all settings are in it (where they
    aren't, that it is as long as a third, too); then that the finalists have all their seeds; then longer rungs.

    Args:
        costs: Of each setting that trains by gradient, by name.
        epochs: The most that the last rung has; None for as many as `petl.fit` chooses.
        used: Seconds that have passed already.
        middle: Those settings of which each method has one, with rates near the default ones.

    Raises:
        TooLittleTime: not even one epoch of each setting fits.
    """
    most = epochs or default_epochs(updates)
    first, time = _first(most, updates), left(seconds, jobs, used)
    found = candidates(costs, most, first, seeds, middle)
    fitting = [(plan, about) for plan, about in found if about <= time]
    if not fitting:
        raise too_little(seconds, len(costs), min(about for _, about in found), jobs, used)

    plan, about = max(fitting, key=lambda pair: _worth(pair[0], first, math.ceil(most / 3)))
    text = (
        "" if plan.entry == "all" else ", and of the best third of the methods alone other rates than the middle ones"
    )
    said = f"{_listed(plan.rungs)}{text}, about {about / jobs:.0f} of {seconds:.0f} s"
    # where the time was planned for one seed, the final has as many of them as there is time for then
    return replace(plan, seeds=seeds, third=math.ceil(most / 3), said=said)


def candidates(
    costs: Mapping[str, Cost], most: int, first: int, seeds: int, middle: Collection[str]
) -> list[tuple[RunPlan, float]]:
    """Returns all plans to choose among, each with the seconds that it is expected to take, one run at a time."""
    entries = ("all", "middle") if 1 < len(middle) < len(costs) else ("all",)
    return [
        (plan, expected(plan, costs, middle))
        for rungs in _all_rungs(1, most)
        for entry in entries
        if entry == "all" or rungs[0] >= first  # what is left out for lack of time isn't judged by short trainings
        for count in sorted({seeds, 1})
        if _is_whole(plan := RunPlan(rungs, count, "", entry), first, seeds) or rungs[-1] <= math.ceil(most / 3)
    ]


def least(costs: Mapping[str, Cost], *, epochs: int | None, updates: int, middle: Collection[str] = ()) -> float:
    """Returns the seconds that the shortest of all plans is expected to take, one run at a time."""
    most = epochs or default_epochs(updates)
    return min(about for _, about in candidates(costs, most, _first(most, updates), 1, middle))


def left(seconds: float, jobs: float, used: float) -> float:
    """Returns the seconds of runs that a plan may have, all that run at a time together."""
    return (seconds * (1 - UNMEASURED_SHARE) - used) * jobs


def _first(most: int, updates: int) -> int:
    return min(most, math.ceil(LEAST_FIRST_UPDATES / updates))


def _worth(plan: RunPlan, first: int, third: int) -> tuple[int, ...]:
    """Returns what is compared of two plans, the most important thing first.

    What is left out for lack of time isn't judged by short trainings, as methods that change more need longer to show what they
    are worth: there a first rung up to a third of the whole length comes before more seeds, which tell only the finalists apart.
    """
    last, start = plan.rungs[-1], plan.rungs[0]
    whole = int(plan.entry == "all")
    judged = 0 if whole else min(start, third)
    return min(last, third), min(first, start), whole, judged, plan.seeds, last, len(plan.rungs)


def _is_whole(plan: RunPlan, first: int, seeds: int) -> bool:
    """Returns whether a plan leaves nothing out for lack of time: longer rungs than a third are for such ones."""
    return plan.rungs[0] >= first and plan.entry == "all" and plan.seeds == seeds


def _all_rungs(first: int, most: int) -> list[tuple[int, ...]]:
    """Returns all rungs that begin with at least ``first`` epochs and end with at most ``most``, each three times the last."""
    powers = [[3**rung for rung in range(count)] for count in range(1, MOST_RUNGS + 1)]
    starts = range(first, most + 1)
    return [tuple(start * p for p in each) for each in powers for start in starts if start * each[-1] <= most]


def expected(plan: RunPlan, costs: Mapping[str, Cost], middle: Collection[str] = ()) -> float:
    """Returns the seconds that a comparison is expected to take, one run at a time."""
    rungs, left = plan.rungs, len(costs)
    mean = Cost(
        *(sum(column) / len(costs) for column in zip(*((c.once, c.epoch) for c in costs.values()), strict=True))
    )
    total = sum(cost.of(rungs[0]) for cost in costs.values())
    if plan.entry == "middle":
        late = round((len(costs) - len(middle)) * math.ceil(len(middle) / 3) / len(middle))
        total = sum(costs[name].of(rungs[0]) for name in middle) + late * mean.of(rungs[0])
        left = len(middle) + late
    for before, after in itertools.pairwise(rungs):
        left = min(left, max(2, math.ceil(math.ceil(left / 3) * TIES)))
        total += left * mean.of(after - before)
    return total + min(2, len(costs)) * (plan.seeds - 1) * mean.of(rungs[-1])


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
