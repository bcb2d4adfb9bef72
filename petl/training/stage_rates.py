"""The rates of a training in stages: what opens later enters with a warm-up of its own, while the schedule goes on."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from petl.training.length import warmup
from petl.training.run import Run


def rate_factor(run: Run, group: Mapping[str, Any]) -> float:
    """Returns the factor of a group's rate in the next update: below 1 in the warm-up of its own, 0 while it is closed."""
    stages = run.stages
    if stages is None:
        return 1.0
    stage = stages.stage_of(group)
    if stage > stages.number:
        return 0.0
    updates = run.updates_per_epoch
    length = math.ceil(warmup(run.settings.optim, run.epochs, updates) * updates)
    done = run.updates + 1 - stages.opened[stage - 1][1]
    return 1.0 if stage == 1 or done >= length else done / length


def highest_rate(run: Run) -> float:
    """Returns the highest rate of the next update, of all groups that are open."""
    return max(group["lr"] * rate_factor(run, group) for group in run.optimizer.param_groups)


@contextlib.contextmanager
def warming_up(run: Run) -> Iterator[None]:
    """Inside, the rates of groups that opened lately are lower. A schedule of any kind doesn't see it, and goes on for all."""
    rates = [(group, group["lr"], rate_factor(run, group)) for group in run.optimizer.param_groups]
    for group, rate, factor in rates:
        if 0 < factor < 1:
            group["lr"] = rate * factor
    try:
        yield
    finally:
        for group, rate, factor in rates:
            if 0 < factor < 1:
                group["lr"] = rate
