"""Those keyword arguments of `fit` that say how the weights are updated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch

from petl.errors import PetlError
from petl.training.setting_checks import (
    ABOVE_ZERO,
    BELOW_ONE,
    INFINITY,
    LARGEST_FINITE,
    Bounds,
    refuse_kinds,
    refuse_numbers,
)

OptimizerChoice = str | Callable[[list[dict[str, Any]]], torch.optim.Optimizer]

OPTIMIZER_BOUNDS = {
    "epochs": Bounds(Integral, 1, INFINITY, "at least 1"),
    "accumulate": Bounds(Integral, 1, INFINITY, "at least 1"),
    "lr": Bounds(Real, ABOVE_ZERO, LARGEST_FINITE, "a number above 0, such as 1e-3"),
    "weight_decay": Bounds(Real, 0, LARGEST_FINITE, "0 or more, such as 0.01"),
    "layer_decay": Bounds(Real, ABOVE_ZERO, 1, "a factor above 0 and up to 1, such as 0.75, or None", optional=True),
    "min_lr": Bounds(Real, 0, LARGEST_FINITE, "0 or more"),
    "clip": Bounds(Real, ABOVE_ZERO, INFINITY, "a number above 0, such as 1.0, or None", optional=True),
    "ema": Bounds(Real, 0, BELOW_ONE, "a decay of 0 or more and less than 1, such as 0.999, or None", optional=True),
}


# what a training by gradient gets where fit was given None
PLACEHOLDERS: dict[str, Any] = {"epochs": 10, "lr": 1e-3}


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How the weights are updated: optimizer, learning rates, length of the training, averages."""

    epochs: int
    lr: float
    optimizer: OptimizerChoice
    weight_decay: float
    layer_decay: float | None
    schedule: str
    warmup_epochs: float | None
    min_lr: float
    accumulate: int
    clip: float | None
    ema: float | None
    start: str | None = None

    def __post_init__(self) -> None:
        refuse_numbers(self, OPTIMIZER_BOUNDS)
        warmup = Bounds(Real, 0, self.epochs, f"0 to epochs={self.epochs}, or None", optional=True)
        refuse_numbers(self, {"warmup_epochs": warmup})
        if self.start not in (None, "probe"):
            raise PetlError(f"start={self.start!r}; expected 'probe', or None")
        if self.min_lr > self.lr:
            raise PetlError(f"min_lr={self.min_lr} is above lr={self.lr}; expected a number from 0 to lr")
        maker = "a name of timm.optim's, or what makes an optimizer from parameter groups"
        refuse_kinds(self, {"optimizer": ((str, Callable), maker)})
        refuse_kinds(self, {"schedule": ((str,), "'cosine', 'poly', 'tanh' or 'none'")})
