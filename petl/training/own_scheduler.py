"""``scheduler=``: a learning-rate scheduler of one's own, torch's or timm's, which takes a step per update."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

from petl.errors import PetlError

EXAMPLE = "lambda optimizer, updates: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=updates)"


class OwnScheduler:
    """Steps a scheduler of torch's or timm's after each update, under the one name that timm's have for it."""

    def __init__(self, scheduler: Any):
        self.scheduler = scheduler

    def step_update(self, updates: int) -> None:
        if hasattr(self.scheduler, "step_update"):
            self.scheduler.step_update(updates)
        else:
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state)


def schedulers() -> tuple[type, ...]:
    """Returns the base classes of torch's and timm's schedulers."""
    from timm.scheduler.scheduler import Scheduler
    from torch.optim.lr_scheduler import LRScheduler

    return LRScheduler, Scheduler


def is_scheduler(value: Any) -> bool:
    """Returns whether it is a scheduler of torch's or timm's, and not what makes one."""
    return isinstance(value, schedulers())


def own_scheduler(wish: Any, optimizer: Any, updates: int) -> OwnScheduler:
    """Returns the scheduler of ``scheduler=``: itself, or what the function makes for the optimizer.

    Args:
        updates: How many updates the training has; a function gets it if it has a parameter of this name.

    Raises:
        PetlError: it is none, is one of another optimizer, or can't take a step per update.
    """
    scheduler = wish if is_scheduler(wish) else _made(wish, optimizer, updates)
    if scheduler.optimizer is not optimizer:
        raise PetlError(
            "scheduler= is one of another optimizer; pass both, fit(..., optimizer=optimizer, scheduler=scheduler), or a "
            f"function that makes it: {EXAMPLE}"
        )
    refuse_per_epoch(scheduler)
    try:
        pickle.dumps(scheduler.state_dict())
    except Exception as error:
        raise PetlError(
            f"scheduler={type(scheduler).__name__}: its state can't be written into a checkpoint ({error})"
        ) from error
    return OwnScheduler(scheduler)


def _made(function: Any, optimizer: Any, updates: int) -> Any:
    try:
        takes = "updates" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        takes = False
    made = function(optimizer, updates=updates) if takes else function(optimizer)
    if not is_scheduler(made):
        raise PetlError(
            f"scheduler= returned {type(made).__name__}; expected an LRScheduler of torch's or a Scheduler of timm's: {EXAMPLE}"
        )
    return made


def refuse_per_epoch(scheduler: Any) -> None:
    """Raises a PetlError for schedulers that wait for a metric or for the end of an epoch: `fit` steps after each update."""
    name = type(scheduler).__name__
    if "Plateau" in name:
        raise PetlError(
            f"scheduler={name} needs a metric, and fit takes a step per update; make it yourself and step it after each epoch: "
            "fit(..., optimizer=optimizer, schedule='none', on_epoch=lambda row: plateau.step(row['loss']))"
        )
    if getattr(scheduler, "t_in_epochs", False):
        raise PetlError(
            f"scheduler={name} counts epochs, and fit takes a step per update; make it with t_in_epochs=False, and its lengths "
            "in updates"
        )
