"""What a run takes: a few updates of each method on a few images, before anything is planned."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from typing import Any

from petl.data.samples import sample
from petl.training.evaluation import evaluate
from petl.trials.plan import Cost
from petl.trials.trial import (
    IN_TURN,
    Materials,
    TrialRun,
    as_before,
    fit_setting,
    load_materials,
    measuring,
    wrapped_copy,
)

TIMED_BATCHES, TIMED_UPDATES = 4, 5  # of the sample; timed at least


@dataclass(frozen=True)
class Timed:
    """The cost of a run, or None where it failed: the run itself will say why."""

    key: str
    seconds: float
    cost: Cost | None


class _Clock:
    """A callback of `petl.fit` that notes when each update ended."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_batch_end(self, training: Any, loss: float) -> None:
        self.marks.append(time.perf_counter())


def timed_trial(source: Materials | str, trial: TrialRun) -> Timed:
    """Returns what the run of a setting that trains by gradient takes once, and for each epoch."""
    started = time.perf_counter()
    with IN_TURN, as_before(trial.threads):
        try:
            cost = _cost(load_materials(source), trial, started)
        except Exception:  # the run itself fails as well, and says why
            cost = None
    return Timed(trial.key, time.perf_counter() - started, cost)


def _cost(materials: Materials, trial: TrialRun, started: float) -> Cost:
    train, val = materials.parts.folds[trial.fold]
    batch = int(materials.options["batch_size"])
    some = sample(train, TIMED_BATCHES * batch)
    model, clock = wrapped_copy(materials, trial.setting, trial.seed), _Clock()
    epochs = math.ceil((TIMED_UPDATES + 1) / math.ceil(len(some) / batch))
    short = TrialRun(trial.setting, trial.seed, trial.fold, epochs, (epochs,), trial.folder, trial.threads)
    fit_setting(model, some, short, materials.options, callbacks=clock)
    trained = time.perf_counter()
    evaluate(model, some, progress=False, **measuring(materials.options))
    look = (time.perf_counter() - trained) / len(some)  # seconds to evaluate an image
    steps = [after - before for before, after in itertools.pairwise(clock.marks)]
    step = sorted(steps)[len(steps) // 2]
    fixed = max(0.0, trained - started - step * len(clock.marks) - look * len(some))
    # once: what doesn't depend on the images, the classifier's start, which evaluates them, and the measurement
    return Cost(fixed + look * (len(train) + len(val)), step * math.ceil(len(train) / batch))
