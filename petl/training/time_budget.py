"""``minutes=``: how long an epoch takes, measured on a few updates that are undone, and how many epochs fit."""

from __future__ import annotations

import itertools
import time

from petl.training.evaluation import measure
from petl.training.length import epochs_within
from petl.training.loop import update_weights
from petl.training.recovery import LossNotFinite
from petl.training.run import Run
from petl.training.undone_updates import undone, windows

WARM_UP, TIMED = 3, 10  # updates: the first ones are slower
VAL_BATCHES = 3
RESERVE = 0.1  # share of the time for what isn't measured: checkpoints, starting workers
clock = time.perf_counter


def epochs_in(run: Run, minutes: float) -> tuple[int, str]:
    """Returns the number of epochs, with their validation, that fit into what is left of the minutes, and a sentence about it."""
    from accelerate.utils import broadcast_object_list

    epoch = _seconds_of_training(run) + _seconds_of_validation(run)
    left = max(0.0, minutes * 60 - (clock() - run.settings.started)) * (1 - RESERVE)
    count = epochs_within(left, epoch)
    said = f"minutes={minutes:g}: {count} epoch{'s' * (count > 1)} of about {epoch:.3g} s"
    if epoch > left:
        said += f", although one doesn't fit into the {left:.3g} s that are left"
    count, said = broadcast_object_list([count, said])  # of rank 0, or ranks would train for different lengths
    return count, said


def _seconds_of_training(run: Run) -> float:
    """Returns the seconds of one epoch without validation, from the mean of a few updates after the first ones."""
    marks = [clock()]
    with undone(run):
        for epoch, window, count in itertools.islice(windows(run), WARM_UP + TIMED):
            try:
                update_weights(run, window, count, epoch)
            except LossNotFinite:
                run.optimizer.zero_grad()  # the training itself will say so, or restart
            marks.append(clock())
    steps = [after - before for before, after in itertools.pairwise(marks)]
    timed = steps[WARM_UP:] or steps
    return sum(timed) / max(len(timed), 1) * run.updates_per_epoch


def _seconds_of_validation(run: Run) -> float:
    if run.val is None:
        return 0.0
    some = min(VAL_BATCHES, len(run.val))
    with undone(run), run.without_trunk():
        marks = []
        for count in (1, some):  # the first batch alone warms up
            start = clock()
            measure(run.accelerator, run.net, itertools.islice(run.val, count), run.objective)
            marks.append(clock() - start)
    return marks[-1] / some * len(run.val)
