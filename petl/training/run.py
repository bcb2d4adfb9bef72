"""A training under way: what trains, on what, how, and how far it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from petl.data.inputs import Batch
from petl.training.history import History
from petl.training.trained_state import cloned, copy_into
from petl.wrapping.record import record


@dataclass
class Run:
    """One training: what trains (``net``, all of ``model`` or its head), on what, how, and how far it is.

    Whatever changes while it runs and isn't the model's or the optimizer's is in ``state_dict``.
    """

    accelerator: Any
    settings: Any
    model: nn.Module
    net: nn.Module
    train: Any
    val: Any
    labels: list[str]
    criterion: nn.Module
    mix: Callable[[Tensor, Tensor], Batch] | None
    optimizer: Any
    scheduler: Any
    progress: Any
    moving: dict[str, Tensor]
    split: dict[str, Any] | None = None
    road: Any = None
    ema: Any = None
    history: History = field(default_factory=History)
    updates: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def average(self) -> dict[str, Tensor]:
        """The averaged values of what moves."""
        state = self.ema.module.state_dict() if self.ema else {}
        return {name: state[name] for name in self.moving if name in state}

    def state_dict(self) -> dict[str, Any]:
        return {
            "history": vars(self.history),
            "updates": self.updates,
            "best": self.best,
            "average": cloned(self.average),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history, self.updates, self.best = History(**state["history"]), state["updates"], state["best"]
        copy_into(self.average, state["average"])

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The model has the averaged values inside, where averages are kept."""
        own = cloned(self.moving) if self.ema else {}
        if self.ema:
            copy_into(self.moving, self.average)
        try:
            yield
        finally:
            if self.ema:
                copy_into(self.moving, own)

    def settle(self) -> None:
        """Leave the model with the values that were asked for, in evaluation mode, and its record with its results."""
        if self.settings.keep == "best" and self.best:
            copy_into(self.moving, self.best)
        elif self.ema and self.updates:
            copy_into(self.moving, self.average)
        made = record(self.model)
        if made is not None and self.history.rows:
            made.results = self.history.best if self.settings.keep == "best" else self.history.rows[-1]
        self.model.eval()
        if self.road:
            self.road.close()

    def skipping(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, the net can run: where it trains on features, the frozen part is stepped over."""
        return self.road.skipping() if self.road else contextlib.nullcontext()
