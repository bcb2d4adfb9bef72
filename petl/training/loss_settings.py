"""Those keyword arguments of `fit` that say what the loss of a batch is."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

from petl.training.setting_checks import BELOW_ONE, LARGEST_FINITE, Bounds, refuse_numbers

LOSS_BOUNDS = {
    "label_smoothing": Bounds(Real, 0, BELOW_ONE, "0 or more, and less than 1"),
    "mixup": Bounds(Real, 0, LARGEST_FINITE, "0 (off) or more, such as 0.2"),
    "cutmix": Bounds(Real, 0, LARGEST_FINITE, "0 (off) or more, such as 1.0"),
}


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """What the loss of a batch is."""

    label_smoothing: float
    mixup: float
    cutmix: float
    class_weights: Any

    def __post_init__(self) -> None:
        refuse_numbers(self, LOSS_BOUNDS)

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0
