"""Those keyword arguments of `fit` that say who is told of the training while it runs, and whether the model is compiled."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from petl.training.callbacks import as_callbacks
from petl.training.compiling import refuse_compile
from petl.training.setting_checks import INFINITY, Bounds, refuse_kinds, refuse_numbers
from petl.training.tracker_choice import as_trackers


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """Callbacks, trackers, and the compilation of the model."""

    callbacks: Any
    log: Any
    log_dir: str | Path
    log_every: int
    compile: bool | str

    def __post_init__(self) -> None:
        refuse_numbers(self, {"log_every": Bounds(Integral, 1, INFINITY, "at least 1")})
        refuse_kinds(self, {"log_dir": ((str, Path), "the path of a folder")})
        as_callbacks(self.callbacks)
        as_trackers(self.log)
        refuse_compile(self.compile)

    @property
    def accelerate_options(self) -> dict[str, Any]:
        """Returns the arguments of accelerate's Accelerator that follow from these."""
        trackers = as_trackers(self.log)
        return {"log_with": trackers, "project_dir": str(self.log_dir)} if trackers else {}
