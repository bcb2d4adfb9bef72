"""What a run takes: a few updates of each method on a few images, before anything is planned."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from dataclasses import dataclass
from typing import Any

from petl.data.samples import sample
from petl.training.evaluation import evaluate
from petl.training.known_heads import KnownHead, sharing_head
from petl.trials.plan import Cost
from petl.trials.quiet import divergence_untold
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
STILL = 1e-6  # times the default rates
MOST_WHOLE = 1000  # images of which the classifier's start is computed whole, and kept for the runs that follow


@dataclass(frozen=True)
class Timed:
    """The cost of a run, or None where it failed: the run itself will say why."""

    key: str
    seconds: float
    cost: Cost | None


class _Clock:
    """A callback of `petl.fit` that notes when each update ended, and ends the training when there were enough."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_batch_end(self, training: Any, loss: float) -> None:
        self.marks.append(time.perf_counter())
        if len(self.marks) > TIMED_UPDATES:
            training.stop()


def timed_trial(source: Materials | str, trial: TrialRun) -> Timed:
    """Returns what the run of a setting that trains by gradient takes once, and for each epoch."""
    started = time.perf_counter()
    with IN_TURN, as_before(trial.threads), divergence_untold():
        try:
            cost = _cost(load_materials(source), trial, started)
        except Exception:  # the run itself fails as well, and says why
            cost = None
    return Timed(trial.key, time.perf_counter() - started, cost)


def _cost(materials: Materials, trial: TrialRun, started: float) -> Cost:
    train, val = materials.parts.folds[trial.fold]
    batch, group = int(materials.options["batch_size"]), trial.setting.group
    some = sample(train, TIMED_BATCHES * batch)
    images = train if len(train) <= MOST_WHOLE else some
    model, clock = wrapped_copy(materials, trial.setting, trial.seed), _Clock()
    epochs = math.ceil((TIMED_UPDATES + 1) / math.ceil(len(images) / batch))
    # updates take the same time whatever the rates are; such small ones can't make a training diverge, and start anew
    still = dataclasses.replace(trial.setting, factor=STILL)
    short = TrialRun(still, trial.seed, trial.fold, epochs, (epochs,), trial.folder, trial.threads)
    head = materials.templates.head(group, trial.seed) if images is train else KnownHead()
    with sharing_head(head):
        fit_setting(model, images, short, materials.options, callbacks=clock)
    trained = time.perf_counter()
    evaluate(model, some, progress=False, **measuring(materials.options))
    look = (time.perf_counter() - trained) / len(some)  # seconds to evaluate an image
    steps = [after - before for before, after in itertools.pairwise(clock.marks)]
    step = sorted(steps)[len(steps) // 2]
    fixed = max(0.0, trained - started - step * len(clock.marks) - look * len(images))
    # once: what doesn't depend on the images, the classifier's start, which evaluates them, and the measurement
    return Cost(fixed + look * (len(train) + len(val)), step * math.ceil(len(train) / batch))
