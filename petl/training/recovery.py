"""A training with default rates that diverges goes back to the last good epoch and on with a third of the rates."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

from petl.errors import PetlError
from petl.objectives.classification import CrossEntropy
from petl.objectives.regression import NumberRegression
from petl.training.rate_groups import multiply_each
from petl.training.run import Run
from petl.training.trained_state import copy_into

log = logging.getLogger(__name__)

MOST_RESTARTS, FACTOR = 2, 1 / 3
EXPLODED = 3.0  # times the first loss, plus one: the mean loss of an epoch that is above has diverged
LEARNT, FORGOTTEN = 0.3, 0.5  # so has one that loses half of what was learnt, if the loss had fallen by 30 %
AT_LAST = (
    "the rates were lowered twice already, so it goes on: this model may be of no use; try lr='x0.1', or start=None"
)


class LossNotFinite(PetlError):
    """The loss of an update is no number; the weights are those from before the update."""


def why_diverged(losses: Sequence[float], first: float) -> str:
    """Returns why the last of these mean losses of epochs shows that a training has diverged; "" where it doesn't.

    ``first`` is the loss of a model that knows nothing yet: that of the first update, or `untaught_loss`, if that is higher.

    >>> why_diverged([0.4, 2.2], 2.3)
    'the mean loss went up from 0.4 to 2.2'
    >>> why_diverged([2.0, 0.9, 1.0], 2.3)
    ''
    """
    *before, now = losses
    if now > EXPLODED * abs(first) + 1:
        return f"the mean loss is {now:.3g}, and began at {first:.3g}"
    best = min(before, default=first)
    if first - best > LEARNT * abs(first) and now - best > FORGOTTEN * (first - best):
        return f"the mean loss went up from {best:.3g} to {now:.3g}"
    return ""


def untaught_loss(objective: Any) -> float:
    """Returns the loss of a model that knows nothing of the targets; 0 where no formula gives it.

    A training that starts from a classifier in closed form, or from a trained model, has hardly a loss at its first update. An
    epoch that is no better than that has forgotten nothing.
    """
    if isinstance(objective, CrossEntropy):
        return math.log(max(len(objective.labels), 1))
    if isinstance(objective, NumberRegression) and objective.scale is not None and objective.option.loss == "mse":
        return 1.0  # the variance of standardised targets
    return 0.0


def train_safely(run: Run, train: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns the row of an epoch, which ``train`` trains; with default rates it is trained again if it diverges.

    Then what trains gets the values from before the epoch, the optimizer starts anew, and all rates are divided by three: twice
    at most in one training. A loss that is no number in the first update of all is no fault of the rates.

    Raises:
        LossNotFinite: the loss of an update is no number, and there is nothing left to try.
    """
    if not run.settings.optim.has_default_rates or run.settings.optim.scheduler is not None:
        return train()
    values, average = _in_main_memory(run.trained), _in_main_memory(run.average)
    updates = run.updates
    while True:
        left = len(run.history.restarts) < MOST_RESTARTS
        try:
            row = train()
            first = run.history.first_loss if run.history.first_loss is not None else row["train_loss"]
            first = max(first, untaught_loss(run.objective))
            why = why_diverged([*(one["train_loss"] for one in run.history.rows), row["train_loss"]], first)
            if why and not left and not any(note.endswith(AT_LAST) for note in run.history.notes):
                _note(run, f"epoch {_epoch(run)} diverged again ({why}); {AT_LAST}")
            if not why or not left:
                return row
        except LossNotFinite as error:
            if not left or not run.updates:
                raise
            why = str(error).partition(":")[0]
        copy_into(run.trained, values)
        copy_into(run.average, average)
        run.updates = updates
        _restart(run, why)


def _restart(run: Run, why: str) -> None:
    """Empties the optimizer's state, lowers its rates, and notes both in log and history."""
    run.optimizer.zero_grad()
    state = run.optimizer.state_dict()
    run.optimizer.load_state_dict({**state, "state": {}})
    multiply_each(run.optimizer, lambda group: FACTOR)
    if run.scheduler:
        run.scheduler.step_update(run.updates)
    epoch = _epoch(run)
    run.history.restarts.append({"epoch": epoch, "why": why, "factor": FACTOR})
    _note(run, f"epoch {epoch} diverged ({why}): it starts again with a third of the rates")


def _epoch(run: Run) -> int:
    return len(run.history) + 1


def _note(run: Run, note: str) -> None:
    """Says the same in log and history."""
    run.history.notes.append(note)
    if run.accelerator.is_main_process:
        log.warning("%s", note)


def _in_main_memory(tensors: Any) -> dict[str, Any]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
