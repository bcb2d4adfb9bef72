"""Successive halving: short trainings of all settings, longer ones of the best, and several seeds of the finalists."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petl.errors import PetlError
from petl.trials.choosing import FEWEST_KEPT, Standing, finalists, gap_of, promoted, standings
from petl.trials.plan import RunPlan, as_time_allows
from petl.trials.settings import TrialSetting, middle_ones
from petl.trials.trial import Outcome
from petl.trials.workshop import Workshop


@dataclass
class Runner:
    """How far a setting has come: the outcomes of its longest runs by seed, and how it ended."""

    setting: TrialSetting
    folds: int
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    rung: int = 0
    epochs: int = 0
    seconds: float = 0.0
    pace: float = 0.0  # seconds an epoch, of the last run
    once: float = 0.0  # seconds of the last run beside its epochs
    end: str = ""
    why: str = ""

    def take(self, outcome: Outcome, seed: int, epochs: int) -> None:
        """Keeps an outcome of a run that trained for ``epochs`` more than the one before."""
        self.seconds += outcome.seconds
        self.pace = outcome.pace or outcome.seconds / max(1, epochs)
        self.once = max(0.0, outcome.seconds - self.pace * epochs)
        if outcome.failed:
            self.end, self.why = "failed", outcome.failed
        else:
            self.outcomes[seed] = outcome

    def scores(self, seeds: int = 1) -> Tensor:
        """Returns the scores of the first seeds, one number an image: of several seeds on one fold the mean."""
        columns = [torch.tensor(self.outcomes[seed].scores) for seed in range(seeds)]
        return torch.cat([torch.stack(columns[fold :: self.folds]).mean(0) for fold in range(min(seeds, self.folds))])

    def takes(self, epochs: int) -> float:
        """Returns the seconds that a run of so many more epochs is expected to take."""
        return self.once + self.pace * epochs

    @property
    def loss(self) -> float:
        return sum(outcome.loss for outcome in self.outcomes.values()) / len(self.outcomes)


class Race:
    """A comparison under way: who is in it, and what is decided after each rung."""

    def __init__(
        self, workshop: Workshop, settings: list[TrialSetting], plan: RunPlan, seconds: float | None, jobs: float
    ):
        self.workshop, self.plan, self.seconds, self.jobs = workshop, plan, seconds, jobs
        folds = len(workshop.materials.parts.folds)
        self.entries = {setting.name: Runner(setting, folds) for setting in settings}
        self.notes: list[str] = []
        self.seeds = plan.seeds
        self.rungs: tuple[int, ...] = ()

    def run(self) -> list[Standing]:
        """Returns who was in the final, the best first, with probes in closed form among them."""
        closed = [entry for entry in self.entries.values() if entry.setting.closed]
        self._run(closed, 0, 0, 0, "probe")
        alive, ranked = [entry for entry in self.entries.values() if not entry.setting.closed], []
        if self.plan.entry == "middle":
            alive = self._entered(alive)
        for number, epochs in enumerate(self.plan.rungs if alive else (), start=1):
            self._run(alive, 0, epochs, number, f"rung {number}")
            alive, self.rungs = [entry for entry in alive if not entry.end], (*self.rungs, epochs)
            ranked = self._ranked(alive, 1)
            if len(self.rungs) == len(self.plan.rungs) or not alive:
                break
            kept = self.workshop.journal.decided(f"after rung {number}", lambda: self._promoted(ranked))  # noqa: B023  # called at once
            if not kept:
                self.notes.append(f"There was no time for rung {number + 1}: the final is of {epochs} epochs.")
                break
            self._drop(ranked, kept)
            alive = [entry for entry in alive if not entry.end]
        return self._final(ranked, closed)

    def _entered(self, entries: list[Runner]) -> list[Runner]:
        """Runs each method with its middle rates to the first rung, and returns these and the other rates of the best third."""
        epochs, names = self.plan.rungs[0], middle_ones([entry.setting for entry in entries])
        first = [self.entries[name] for name in names]
        self._run(first, 0, epochs, 1, "middle rates")
        ranked = self._ranked([entry for entry in first if not entry.end], 1)
        decided = self.workshop.journal.decided("methods", lambda: self._methods(ranked, len(first)))
        middle = {entry.setting.group: entry for entry in first}
        for entry in entries:
            if entry.setting.name not in names and entry.setting.group not in decided:
                one = middle[entry.setting.group]
                reason = "failed" if one.end else f"was not among the best after {epochs} epochs"
                entry.end, entry.why = "not tried", f"{one.setting.name} {reason}, and there was no time for more"
        return [entry for entry in entries if not entry.end]

    def _methods(self, ranked: list[Standing], methods: int) -> list[str]:
        """Returns the methods of which the other rates are tried: the best third."""
        groups = [self.entries[one.name].setting.group for one in ranked]
        return groups[: math.ceil(methods / 3)]

    def _final(self, ranked: list[Standing], closed: list[Runner]) -> list[Standing]:
        """Trains the finalists with more seeds, each on a fold of its own, and returns all of them, the best first."""
        self._refuse_all_failed()
        decided = self.workshop.journal.decided("final", lambda: self._finalists(ranked))
        self.seeds = decided["seeds"]
        if self.seeds < self.plan.seeds:
            self.notes.append(f"There was time for {self.seeds} seed{'s' * (self.seeds != 1)} of the finalists.")
        self._drop(ranked, decided["names"])
        within = [self.entries[name] for name in decided["names"]]
        for seed in range(1, self.seeds):
            self._run(
                [*within, *closed], seed, self.rungs[-1] if self.rungs else 0, len(self.rungs), f"seed {seed + 1}"
            )
        for entry in (*within, *closed):
            entry.end = entry.end or ("closed form" if entry.setting.closed else "finalist")
        left = [entry for entry in (*within, *closed) if entry.end != "failed"]
        if not left:
            raise PetlError(f"every finalist failed with another seed: {within[0].why if within else closed[0].why}")
        return self._ranked(left, self.seeds)

    def _run(self, entries: list[Runner], seed: int, epochs: int, rung: int, what: str) -> None:
        new = [entry for entry in entries if not entry.end and (seed or entry.setting.closed or entry.epochs < epochs)]
        trials = [self.workshop.trial(entry.setting, seed, epochs) for entry in new]
        for name, outcome in self.workshop.run(trials, what).items():
            entry = self.entries[name]
            entry.take(outcome, seed, epochs - (entry.epochs if seed == 0 else 0))
            if not entry.setting.closed and not outcome.failed:
                entry.rung, entry.epochs = rung, epochs

    def _ranked(self, entries: list[Runner], seeds: int) -> list[Standing]:
        named = {entry.setting.name: entry for entry in entries}
        losses = {name: entry.loss for name, entry in named.items()}
        return standings({name: entry.scores(seeds) for name, entry in named.items()}, losses)

    def _promoted(self, ranked: list[Standing]) -> list[str]:
        """Returns who goes on to the next rung; none where there is no time for the top third, and for more seeds of two."""
        names, now, following = promoted(ranked), self.rungs[-1], self.plan.rungs[len(self.rungs)]
        if self.seconds is None:
            return names
        needed = min(len(names), max(FEWEST_KEPT, math.ceil(len(ranked) / 3)))
        times = {name: self.entries[name].takes(following - now) for name in names}
        final = sum(self.entries[name].takes(following) for name in names[:FEWEST_KEPT]) * (self.plan.seeds - 1)
        third = following <= self.plan.third  # comes before more seeds, of which the final has what there is time for
        return as_time_allows(names, needed, times, self._left() - (0 if third else final))

    def _finalists(self, ranked: list[Standing]) -> dict[str, Any]:
        names, seeds = finalists(ranked), self.plan.seeds
        if self.seconds is None or not names:
            return {"names": names, "seeds": seeds}
        each = {name: self.entries[name].takes(self.rungs[-1]) for name in names}
        while seeds > 1 and sum(each[name] for name in names[:FEWEST_KEPT]) * (seeds - 1) > self._left():
            seeds -= 1
        if seeds > 1:
            times = {name: value * (seeds - 1) for name, value in each.items()}
            names = as_time_allows(names, min(FEWEST_KEPT, len(names)), times, self._left()) or names[:FEWEST_KEPT]
        return {"names": names, "seeds": seeds}

    def _left(self) -> float:
        """Returns the seconds of runs that still fit, all workers together."""
        return ((self.seconds or math.inf) - self.workshop.journal.elapsed) * self.jobs

    def _drop(self, ranked: list[Standing], kept: list[str]) -> None:
        """Ends the settings that aren't kept, says why, and removes their files."""
        for one in ranked:
            entry = self.entries[one.name]
            if one.name in kept:
                continue
            behind = f"{one.gap:.3f} +- {one.error:.3f} behind {ranked[0].name} after {entry.epochs} epochs"
            cut = "; within one standard error, but there was no room for more" if one.tied else ""
            entry.end, entry.why = "dropped", behind + cut
            place = Path(self.workshop.trial(entry.setting, 0, 0).folder)
            shutil.rmtree(place.parent, ignore_errors=True)

    def _refuse_all_failed(self) -> None:
        tried = [entry for entry in self.entries.values() if entry.end != "not tried"]
        asked = [entry for entry in tried if not entry.setting.closed] or tried
        if all(entry.end == "failed" for entry in asked):
            reasons = dict.fromkeys(entry.why for entry in asked)
            raise PetlError(f"all {len(asked)} settings failed: {'; '.join([*reasons][:3])}")

    def gap(self, name: str, leader: str) -> tuple[float, float]:
        """Returns how far a setting is behind the leader on the images that both were measured on."""
        one, first = self.entries[name], self.entries[leader]
        seeds = min(len(one.outcomes), len(first.outcomes))
        return gap_of(first.scores(seeds), one.scores(seeds))
