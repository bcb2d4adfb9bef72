"""Carries out runs: here one after the other, or by an executor, in any order, with the same results."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import sys
import time
from collections.abc import Generator, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from petl.errors import PetlError, StateError, printable
from petl.trials.early import Early, runs_at_a_time
from petl.trials.journal import Journal
from petl.trials.plan import Cost
from petl.trials.settings import TrialSetting
from petl.trials.timing import timed_trial
from petl.trials.trial import Materials, Outcome, TrialRun, carried_out

MATERIALS = "petl-compare-materials.pkl"  # a name that no file of the user has


@dataclass
class Workshop:
    """Where runs are carried out, and what they take: see `petl.compare` for ``executor`` and ``folder``."""

    materials: Materials
    folder: Path
    journal: Journal
    executor: Executor | None
    seed: int
    show: bool
    cycles: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.source: Materials | str = self.materials
        if self.executor is not None:
            self.source = str((self.folder / MATERIALS).absolute())
            pickled(self.materials, Path(self.source))

    def trial(self, setting: TrialSetting, seed: int, epochs: int) -> TrialRun:
        """Returns the run of a setting: its seed decides the fold, too."""
        fold = seed % len(self.materials.parts.folds)
        place = self.folder / "runs" / f"{setting.number:02}-{file_name(setting.name)}" / f"seed-{seed}"
        threads = torch.get_num_threads()
        return TrialRun(setting, self.seed + seed, fold, epochs, self.cycles, str(place.absolute()), threads)

    def run(self, trials: Sequence[TrialRun], what: str) -> dict[str, Outcome]:
        """Returns what each run found, by the name of its setting in their order; those that have ended aren't repeated."""
        missing = [trial for trial in trials if trial.key not in self.journal.outcomes]
        for number, outcome in enumerate(self._each(carried_out, missing), start=1):
            self.journal.add(outcome)
            self.say(f"{what}, {number} of {len(missing)}: {_told(outcome)}")
        return {trial.setting.name: self.journal.outcomes[trial.key] for trial in trials}

    def time(self, trials: Sequence[TrialRun], known: Early) -> tuple[dict[str, Any], float]:
        """Returns the cost of each run's setting by name, and how many runs there were at a time.

        Raises:
            TooLittleTime: those that were timed, which ``known`` is told of, are too much for the time already.
        """
        start, found = time.perf_counter(), {}
        named = {trial.key: trial.setting for trial in trials}
        with contextlib.closing(self._each(timed_trial, trials)) as outcomes:  # what hasn't begun is cancelled at once
            for outcome in outcomes:
                found[outcome.key] = outcome
                cost = getattr(outcome, "cost", None)  # none of one that failed: the run itself says why
                known.costs[named[outcome.key].group] = cost or Cost(0.0, 0.0)
                known.refuse()
        wall, spent = time.perf_counter() - start, sum(outcome.seconds for outcome in found.values())
        costs = {named[key].name: outcome.cost for key, outcome in found.items() if getattr(outcome, "cost", None)}
        return costs, runs_at_a_time(self.executor, spent / wall)

    def say(self, line: str) -> None:
        """Prints a line on stderr, as trainings do."""
        if self.show:
            sys.stderr.write(f"{printable(line)}\n")

    def _each(self, function: Any, trials: Sequence[TrialRun]) -> Generator[Any]:
        if self.executor is None:
            return (function(self.source, trial) for trial in trials)
        return self._submitted(function, trials)

    def _submitted(self, function: Any, trials: Sequence[TrialRun]) -> Generator[Any]:
        """Yields outcomes as they come; where the executor is interrupted or breaks, runs that haven't begun are cancelled."""
        futures: dict[Any, TrialRun] = {}
        try:
            for trial in trials:
                futures[self.executor.submit(function, self.source, trial)] = trial  # type: ignore[union-attr]  # not None here
            for future in as_completed(futures):
                yield _result(future, futures[future])
        except (BrokenExecutor, CancelledError, RuntimeError) as error:
            raise StateError(
                f"the executor ended before the runs did ({type(error).__name__}: {error}); a worker may have had too little "
                "memory: call again with fewer workers, and with the same folder= to go on where it was"
            ) from error
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Removes what only workers needed."""
        with contextlib.suppress(OSError):
            (self.folder / MATERIALS).unlink()


def _result(future: Any, trial: TrialRun) -> Any:
    """Returns the outcome of a future; an error that the run itself couldn't catch is one, too."""
    try:
        return future.result()
    except (BrokenExecutor, CancelledError):
        raise
    except Exception as error:  # whatever the executor's way of sending things raises
        return Outcome(trial.key, failed=f"{type(error).__name__}: {error}"[:600])


def pickled(materials: Materials, path: Path) -> None:
    """Writes the materials to a file for workers.

    Raises:
        StateError: they can't be pickled.
    """
    try:
        with open(path, "wb") as file:
            pickle.dump(materials, file, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # whatever a model or a dataset raises
        path.unlink(missing_ok=True)
        raise StateError(
            f"executor= needs a model and data that can be pickled, and these can't ({type(error).__name__}: {error}); pass a "
            "folder of images in place of a dataset, or leave executor out"
        ) from error


def file_name(name: str) -> str:
    """Returns a setting's name as a file can have it.

    >>> file_name("norm+lora(rank=4) x0.33")
    'norm-lora-rank-4-x0.33'
    """
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[:60] or "setting"


def _told(outcome: Outcome) -> str:
    if outcome.failed:
        return f"{outcome.key} failed: {outcome.failed}"
    said = f"{outcome.key}: {outcome.measure} {sum(outcome.scores) / len(outcome.scores):.3f}, {outcome.seconds:.1f} s"
    return "; ".join([said, *(note for note in outcome.notes if " diverged " in note)])


def refuse_executor(executor: Any) -> None:
    """Raises a PetlError for what isn't an executor, and under several ranks, which would write one another's files."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise PetlError(
            f"compare was started in {os.environ['WORLD_SIZE']} processes; start it in one, and spread its runs by executor="
        )
    if executor is not None and not isinstance(executor, Executor):
        raise PetlError(
            f"executor={type(executor).__name__}; expected a concurrent.futures.Executor, such as "
            "ProcessPoolExecutor(2), or that of dask: client.get_executor()"
        )
