"""Calls the callbacks of a training, and knows whether one has asked it to stop, on whichever process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from petl.training.callbacks import Training


class CallbackCalls:
    """Calls callbacks in their order, the function ``on_epoch`` last. ``failed`` says that one of them has raised."""

    def __init__(self, callbacks: Sequence[Any] = (), on_epoch: Callable[[dict[str, Any]], Any] | None = None):
        self.callbacks, self.on_epoch = list(callbacks), on_epoch
        self.stopping = self.failed = False
        self._view: Any = None

    def fit_begin(self, run: Any) -> None:
        self._view = Training(run)
        self._call(run, "on_fit_begin")

    def batch_end(self, run: Any, loss: float) -> None:
        if self.callbacks:
            self._view._epoch = len(run.history) + 1
            if run.features:
                run.features.release()  # a callback may run the model
            self._call(run, "on_batch_end", loss)

    def epoch_end(self, run: Any, row: dict[str, Any]) -> None:
        self._view._epoch = row["epoch"]
        self._call(run, "on_epoch_end", row)
        if self.on_epoch:
            self._guarded(self.on_epoch, row)

    def fit_end(self, run: Any) -> None:
        self._call(run, "on_fit_end", run.history)

    def _call(self, run: Any, method: str, *values: Any) -> None:
        for callback in self.callbacks:
            if hasattr(callback, method):
                self._guarded(getattr(callback, method), self._view, *values)
        if self.callbacks and method != "on_fit_end":
            self.stopping = self.stopping or _on_any_process(run.accelerator, self._view._stop)

    def _guarded(self, function: Callable[..., Any], *values: Any) -> None:
        try:
            function(*values)
        except BaseException:
            self.failed = True
            raise


def _on_any_process(accelerator: Any, asked: bool) -> bool:
    """Returns whether any process has asked: they all go on, or they all stop."""
    if accelerator.num_processes == 1:
        return asked
    return bool(accelerator.reduce(torch.tensor(float(asked), device=accelerator.device), reduction="sum") > 0)
