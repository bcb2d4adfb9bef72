"""Those keyword arguments of `fit` that say how the weights are updated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch

from petl.errors import PetlError
from petl.training.own_scheduler import is_scheduler, refuse_per_epoch, schedulers
from petl.training.setting_checks import (
    ABOVE_ZERO,
    BELOW_ONE,
    INFINITY,
    LARGEST_FINITE,
    Bounds,
    refuse_kinds,
    refuse_numbers,
)

WEIGHT_DECAY = 0.01  # the default of ``weight_decay=``
OptimizerChoice = str | torch.optim.Optimizer | Callable[[list[dict[str, Any]]], torch.optim.Optimizer]

OPTIMIZER_BOUNDS = {
    "epochs": Bounds(Integral, 1, INFINITY, "at least 1"),
    "accumulate": Bounds(Integral, 1, INFINITY, "at least 1"),
    "lr": Bounds(Real, ABOVE_ZERO, LARGEST_FINITE, "a number above 0, such as 1e-3", optional=True),
    "weight_decay": Bounds(Real, 0, LARGEST_FINITE, "0 or more, such as 0.01"),
    "layer_decay": Bounds(Real, ABOVE_ZERO, 1, "a factor above 0 and up to 1, such as 0.75, or None", optional=True),
    "min_lr": Bounds(Real, 0, LARGEST_FINITE, "0 or more"),
    "clip": Bounds(Real, ABOVE_ZERO, INFINITY, "a number above 0, such as 1.0, or None", optional=True),
    "ema": Bounds(Real, 0, BELOW_ONE, "a decay of 0 or more and less than 1, such as 0.999, or None", optional=True),
}


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How the weights are updated: optimizer, learning rates, length of the training, averages."""

    epochs: int
    lr: float | None
    optimizer: OptimizerChoice
    weight_decay: float
    layer_decay: float | None
    schedule: str | None
    scheduler: Any
    warmup_epochs: float | None
    min_lr: float
    accumulate: int
    clip: float | None
    ema: float | None

    def __post_init__(self) -> None:
        refuse_numbers(self, OPTIMIZER_BOUNDS)
        warmup = Bounds(Real, 0, self.epochs, f"0 to epochs={self.epochs}, or None", optional=True)
        refuse_numbers(self, {"warmup_epochs": warmup})
        if self.lr is not None and self.min_lr > self.lr:
            raise PetlError(f"min_lr={self.min_lr} is above lr={self.lr}; expected a number from 0 to lr")
        maker = "a name of timm.optim's, a ready optimizer, or what makes one from parameter groups"
        refuse_kinds(self, {"optimizer": ((str, torch.optim.Optimizer, Callable), maker)})
        refuse_kinds(self, {"schedule": ((str, type(None)), "'cosine', 'poly', 'tanh' or 'none'")})
        self._refuse_beside_ready_ones()
        if self.schedule is None:
            object.__setattr__(self, "schedule", "cosine" if self.scheduler is None else "none")

    def _refuse_beside_ready_ones(self) -> None:
        """Raises a PetlError for settings that a ready optimizer, or a scheduler of one's own, would leave without effect."""
        ready = isinstance(self.optimizer, torch.optim.Optimizer)
        if ready and (self.lr is not None or self.layer_decay is not None or self.weight_decay != WEIGHT_DECAY):
            raise PetlError(
                "lr=, layer_decay= and weight_decay= are for an optimizer that fit makes; a ready one has its own, by group: "
                "petl.param_groups(model, lr=1e-3, layer_decay=0.75) makes such groups"
            )
        if not ready and self.lr is None:
            raise PetlError("lr=None; expected a number above 0, such as 1e-3 (only a ready optimizer has its own)")
        if self.scheduler is None:
            return
        refuse_kinds(
            self, {"scheduler": ((Callable, *schedulers()), "a scheduler, or a function optimizer -> scheduler")}
        )
        if self.schedule is not None or self.warmup_epochs is not None or self.min_lr:
            raise PetlError(
                "schedule=, warmup_epochs= and min_lr= are for fit's own schedule; leave them out beside scheduler="
            )
        if is_scheduler(self.scheduler):
            refuse_per_epoch(self.scheduler)
