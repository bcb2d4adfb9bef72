"""Those keyword arguments of `fit` that say how the weights are updated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

import torch

from petl.errors import PetlError
from petl.training.cycles import checked_cycles
from petl.training.own_scheduler import is_scheduler, refuse_per_epoch, schedulers
from petl.training.setting_checks import (
    ABOVE_ZERO,
    BELOW_ONE,
    INFINITY,
    LARGEST_FINITE,
    Bounds,
    refuse_kinds,
    refuse_number,
    refuse_numbers,
)

WEIGHT_DECAY = 0.01  # the default of ``weight_decay=``
OptimizerChoice = str | torch.optim.Optimizer | Callable[[list[dict[str, Any]]], torch.optim.Optimizer]

DEFAULT_CLIP = 1.0  # with default rates; a number for lr clips nothing unless asked to
FIND, GRADIENTS, STALL = "find", "gradients", "stall"  # values of lr, layer_decay and unfreeze

OPTIMIZER_BOUNDS = {
    "epochs": Bounds(Integral, 1, INFINITY, "at least 1, or None", optional=True),
    "minutes": Bounds(Real, ABOVE_ZERO, LARGEST_FINITE, "a number above 0, or None", optional=True),
    "accumulate": Bounds(Integral, 1, INFINITY, "at least 1"),
    "weight_decay": Bounds(Real, 0, LARGEST_FINITE, "0 or more, such as 0.01"),
    "min_lr": Bounds(Real, 0, LARGEST_FINITE, "0 or more"),
    "clip": Bounds(Real, ABOVE_ZERO, INFINITY, "a number above 0, such as 1.0, inf, or None", optional=True),
    "ema": Bounds(Real, 0, BELOW_ONE, "a decay of 0 or more and less than 1, such as 0.999, or None", optional=True),
}
RATE_WORDS = "a number above 0, such as 1e-3; None, 'x0.5' or 'find' for the default rates, all times the same"
RATE = Bounds(Real, ABOVE_ZERO, LARGEST_FINITE, RATE_WORDS)
DECAY_WORDS = "a factor above 0 and up to 1, such as 0.75, 'gradients', or None"
UNFREEZE = Bounds(Integral, 1, INFINITY, "at least 1, the epochs of a stage, or 'stall', or None", optional=True)
DECAY = Bounds(Real, ABOVE_ZERO, 1, DECAY_WORDS, optional=True)


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How the weights are updated: optimizer, learning rates, length of the training, averages."""

    epochs: int | None
    minutes: float | None
    lr: float | str | None
    optimizer: OptimizerChoice
    weight_decay: float
    layer_decay: float | Literal["gradients"] | None
    unfreeze: int | Literal["stall"] | None
    schedule: str | None
    scheduler: Any
    cycles: Sequence[int] | None
    warmup_epochs: float | None
    min_lr: float
    accumulate: int
    clip: float | None
    ema: float | None
    start: str | None

    def __post_init__(self) -> None:
        refuse_numbers(self, OPTIMIZER_BOUNDS)
        if self.epochs is not None and self.minutes is not None:
            raise PetlError(
                f"epochs={self.epochs} with minutes={self.minutes}, which chooses the epochs; leave one of them out"
            )
        if self.start not in (None, "auto", "probe"):
            raise PetlError(f"start={self.start!r}; expected 'auto', 'probe', or None")
        self._refuse_rates()
        if self.cycles is not None:
            self._check_cycles()
        most, words = (INFINITY, "0 or more") if self.epochs is None else (self.epochs, f"0 to epochs={self.epochs}")
        refuse_numbers(self, {"warmup_epochs": Bounds(Real, 0, most, f"{words}, or None", optional=True)})
        if self.one_rate is not None and self.min_lr > self.one_rate:
            raise PetlError(f"min_lr={self.min_lr} is above lr={self.lr}; expected a number from 0 to lr")
        maker = "a name of timm.optim's, a ready optimizer, or what makes one from parameter groups"
        refuse_kinds(self, {"optimizer": ((str, torch.optim.Optimizer, Callable), maker)})
        refuse_kinds(self, {"schedule": ((str, type(None)), "'cosine', 'poly', 'tanh' or 'none'")})
        self._refuse_beside_ready_optimizer()
        self._refuse_beside_scheduler()
        self._refuse_other_optimizers()
        if self.schedule is None:
            object.__setattr__(self, "schedule", "cosine" if self.scheduler is None else "none")

    def _refuse_rates(self) -> None:
        if self.lr is not None and self.lr != FIND and not (isinstance(self.lr, str) and times(self.lr)):
            refuse_number("lr", self.lr, RATE)
        if self.layer_decay != GRADIENTS:
            refuse_number("layer_decay", self.layer_decay, DECAY)
        if self.unfreeze != STALL:
            refuse_number("unfreeze", self.unfreeze, UNFREEZE)

    def _check_cycles(self) -> None:
        object.__setattr__(self, "cycles", checked_cycles(self.cycles, self.epochs))
        if self.epochs is None and self.minutes is None:
            object.__setattr__(self, "epochs", self.cycles[-1])  # type: ignore[index]  # checked
        if self.minutes is not None or self.unfreeze is not None or self.schedule == "none":
            raise PetlError("cycles= are parts of a schedule of known length: leave minutes=, unfreeze= and 'none' out")

    def _refuse_other_optimizers(self) -> None:
        name = self.optimizer if isinstance(self.optimizer, str) else "adam"
        if self.has_default_rates and self.lr != FIND and not ("adam" in name.lower() and "muon" not in name.lower()):
            raise PetlError(
                f"optimizer={name!r} with lr={self.lr!r}: the default rates are AdamW's; give a number, such as lr=1e-2, or "
                f"lr='find', which measures by which factor they suit this optimizer"
            )

    def _refuse_beside_ready_optimizer(self) -> None:
        """Raises a PetlError for settings that a ready optimizer would leave without effect."""
        others = self.lr is not None or self.layer_decay is not None or self.weight_decay != WEIGHT_DECAY
        if self.is_ready and others:
            raise PetlError(
                "lr=, layer_decay= and weight_decay= are for an optimizer that fit makes; a ready one has its own, by group: "
                "petl.param_groups(model, lr=1e-3, layer_decay=0.75) makes such groups"
            )
        if self.is_ready and self.unfreeze is not None:
            raise PetlError(
                "unfreeze= needs an optimizer that fit makes, with groups by block; pass the function that makes it: "
                "optimizer=lambda groups: torch.optim.AdamW(groups)"
            )

    def _refuse_beside_scheduler(self) -> None:
        """Raises a PetlError for settings that don't go with a scheduler of one's own."""
        if self.scheduler is None:
            return
        refuse_kinds(
            self, {"scheduler": ((Callable, *schedulers()), "a scheduler, or a function optimizer -> scheduler")}
        )
        if self.schedule is not None or self.warmup_epochs is not None or self.min_lr or self.cycles is not None:
            raise PetlError(
                "schedule=, cycles=, warmup_epochs= and min_lr= are for fit's own schedule; leave them out beside scheduler="
            )
        if isinstance(self.lr, str) or self.layer_decay == GRADIENTS or self.minutes is not None:
            raise PetlError(
                "lr='find', lr='x0.5', layer_decay='gradients' and minutes= decide after a scheduler is made; beside scheduler= "
                "pass numbers, such as lr=1e-3 and epochs=10, or leave them out"
            )
        if is_scheduler(self.scheduler):
            refuse_per_epoch(self.scheduler)

    @property
    def is_ready(self) -> bool:
        """Returns whether the optimizer was made by the user, with groups and rates of its own."""
        return isinstance(self.optimizer, torch.optim.Optimizer)

    @property
    def has_default_rates(self) -> bool:
        """Returns whether each tensor has the rate of its kind: not with a number for ``lr``, nor with a ready optimizer."""
        return self.one_rate is None and not self.is_ready

    @property
    def one_rate(self) -> float | None:
        """Returns the rate that all tensors have where ``lr`` is a number, else None."""
        return None if isinstance(self.lr, str) else self.lr

    @property
    def factor(self) -> float:
        """Returns the factor of all default rates: 0.5 for ``lr="x0.5"``."""
        return (times(self.lr) if isinstance(self.lr, str) else None) or 1.0

    @property
    def largest_norm(self) -> float | None:
        """Returns the largest norm of the gradient, or None where it isn't clipped."""
        clip = DEFAULT_CLIP if self.clip is None and self.has_default_rates else self.clip
        return None if clip is None or math.isinf(clip) else clip


def times(text: str) -> float | None:
    """Returns the factor in a text such as "x0.5", or None for any other text.

    >>> times("x0.5"), times("0.5"), times("x-1")
    (0.5, None, None)
    """
    try:
        factor = float(text.removeprefix("x")) if text.startswith("x") else 0.0
    except ValueError:
        return None
    return factor if 0 < factor < INFINITY else None
