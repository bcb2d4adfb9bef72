"""Refuses a comparison as soon as it is known that its time can't be enough: before any training, or after a timed method."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from petl.data.inputs import as_loader
from petl.data.samples import sample
from petl.extraction.image_batches import images_and_any_targets
from petl.extraction.undisturbed import undisturbed
from petl.trials.journal import Journal
from petl.trials.plan import Cost, least, left
from petl.trials.settings import TrialSetting, middle_ones
from petl.trials.timing import TIMED_UPDATES
from petl.trials.too_little import too_little
from petl.trials.trial import Materials

LOOKED_BATCHES = 3  # of which the fastest counts
SURE_SHARE = 0.5  # of the time of a forward pass that was measured: what a run takes at least, however noisy that is
STARTED = 1.0  # seconds that a run is guessed to take beside what it computes
TRAINED = 6.0  # forward passes that an image of an epoch is guessed to take
ONCE = 4.0  # forward passes that an image of a run is guessed to take beside the epochs


@dataclass
class Early:
    """What is known of the time of a comparison while its methods are timed; ``refuse`` raises where that can't be enough.

    ``jobs`` is the most runs that there may be at a time. ``costs``: of each method that was timed, by its group.
    """

    materials: Materials
    settings: Sequence[TrialSetting]  # those that train by gradient
    asked: Mapping[str, Any]
    journal: Journal
    jobs: float
    look: float = 0.0  # seconds of an image's forward pass, 0 where it wasn't measured
    costs: dict[str, Cost] = field(default_factory=dict)

    def refuse(self) -> None:
        """Raises TooLittleTime if not even the shortest plan fits, whatever is still to be timed takes."""
        train, val = (len(part) for part in self.materials.parts.folds[0])
        updates = math.ceil(train / self.materials.options["batch_size"])
        length: dict[str, Any] = {"epochs": self.asked["epochs"], "updates": updates}
        length["middle"] = middle_ones(self.settings)
        used, seconds = self.journal.elapsed, self.asked["seconds"]
        surely = self._costs(Cost(SURE_SHARE * self.look * val, 0.0))  # each run measures its hold-out
        if least(surely, **length) <= left(seconds, self.jobs, used):
            return

        other = self._guess(train, val)
        untimed = {setting.group for setting in self.settings} - set(self.costs)
        used += len(untimed) * other.of((TIMED_UPDATES + 1) / updates) / self.jobs
        guess = (
            f"the {len(self.costs)} of {len(self.costs) + len(untimed)} methods that were timed"
            if self.costs
            else "what a forward pass of a few images takes"
        )
        raise too_little(seconds, len(self.settings), least(self._costs(other), **length), self.jobs, used, guess)

    def _costs(self, other: Cost) -> dict[str, Cost]:
        """Returns the cost of each setting by name: ``other`` for those of methods that weren't timed."""
        return {setting.name: self.costs.get(setting.group, other) for setting in self.settings}

    def _guess(self, train: int, val: int) -> Cost:
        if any(cost.epoch for cost in self.costs.values()):
            once, epoch = (max(getattr(cost, name) for cost in self.costs.values()) for name in ("once", "epoch"))
            return Cost(once, epoch)  # those that weren't timed may be as slow as the slowest
        return Cost(STARTED + ONCE * self.look * (train + val), TRAINED * self.look * train)


def early(
    materials: Materials,
    settings: Sequence[TrialSetting],
    asked: Mapping[str, Any],
    journal: Journal,
    executor: Executor | None,
) -> Early:
    """Returns what is known before anything has trained; TooLittleTime if even that is too much for the time.

    A forward pass is measured where runs are on this machine's processors; on another device, or elsewhere, it says nothing.
    """
    here = executor is None or isinstance(executor, (ProcessPoolExecutor, ThreadPoolExecutor))
    jobs = runs_at_a_time(executor, len({setting.group for setting in settings}))
    look = seconds_of_a_look(materials) if here and not torch.accelerator.is_available() else 0.0
    known = Early(materials, settings, asked, journal, jobs, look)
    known.refuse()
    return known


def runs_at_a_time(executor: Executor | None, otherwise: float) -> float:
    """Returns how many runs there are at a time: what the executor says; where it doesn't, ``otherwise``, at least one."""
    stated = getattr(executor, "_max_workers", None)  # of those of concurrent.futures
    return 1.0 if executor is None else float(stated) if isinstance(stated, int) else max(1.0, otherwise)


def seconds_of_a_look(materials: Materials) -> float:
    """Returns the seconds that an image's forward pass takes at least, without reading it; 0 where that can't be measured."""
    model, val = materials.model, materials.parts.folds[0][1]
    batch = int(materials.options["batch_size"])
    looks = []
    try:
        some = sample(val, LOOKED_BATCHES * batch)
        with undisturbed(model, some), torch.inference_mode():
            for pair in as_loader(some, model, batch_size=batch):
                images, _ = images_and_any_targets(pair, model)
                began = time.perf_counter()
                model(images)
                looks.append((time.perf_counter() - began) / len(images))
    except Exception:  # the runs fail as well, and say why
        return 0.0
    return min(looks, default=0.0)
