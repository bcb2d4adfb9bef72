"""Sends the numbers of a training to accelerate's trackers: TensorBoard, Weights & Biases, MLflow and others."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from petl.errors import PetlError, printable
from petl.training.callbacks import Callback, Training
from petl.training.run import Run
from petl.training.run_file import settings_as_json

log = logging.getLogger(__name__)


class TrackerLog(Callback):
    """Logs the loss and the learning rate of every ``every``-th update, and the rows of the history.

    A tracker that fails is named in a warning and left alone from then on: no training ends for a lost connection.
    """

    def __init__(self, trackers: list[Any], every: int):
        self.trackers, self.every = trackers, every

    def on_batch_end(self, run: Training, loss: float) -> None:
        if run.update % self.every == 0:
            self._log(run, {"update/loss": loss, "update/lr": run.lr})

    def on_epoch_end(self, run: Training, row: dict[str, Any]) -> None:
        self._log(run, {f"epoch/{name}": value for name, value in row.items() if _is_number(value)})

    def _log(self, run: Training, values: Mapping[str, Any]) -> None:
        for tracker in _of_this_process(self.trackers, run.is_main):
            self._try(tracker, lambda tracker=tracker: tracker.log(dict(values), step=run.update))

    def _try(self, tracker: Any, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:
            self.trackers.remove(tracker)
            log.warning("%s failed, and is told no more: %s", tracker.name, error)

    def finish(self, is_main: bool) -> None:
        for tracker in _of_this_process(self.trackers, is_main):
            self._try(tracker, tracker.finish)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _of_this_process(trackers: list[Any], is_main: bool) -> list[Any]:
    return [tracker for tracker in trackers if is_main or not tracker.main_process_only]


@contextlib.contextmanager
def tracking(run: Run) -> Iterator[None]:
    """Inside, the trackers of ``log=`` are told of the training; they are finished afterwards, also after an error.

    Raises:
        PetlError: a tracker can't be started.
    """
    settings, accelerator = run.settings, run.accelerator
    if not settings.loop.accelerate_options:
        yield
        return
    name = Path(settings.run.out).stem if settings.run.out else "petl"
    try:
        accelerator.init_trackers(name, config=_config(run))
    except Exception as error:
        raise PetlError(f"log={_names(settings.loop.log)} can't be started: {error}") from error
    logger = TrackerLog(list(accelerator.trackers), settings.loop.log_every)
    run.callbacks.callbacks.append(logger)
    try:
        yield
    finally:
        logger.finish(accelerator.is_main_process)


def _config(run: Run) -> dict[str, Any]:
    """Returns the settings as the plain values that trackers keep; lists become texts, and what is None is left out."""
    values = {"model": type(run.model).__name__, **settings_as_json(run.settings)}
    plain = {key: value if isinstance(value, (bool, int, float, str)) else str(value) for key, value in values.items()
             if value is not None}  # fmt: skip
    return {key: printable(value)[:250] if isinstance(value, str) else value for key, value in plain.items()}


def _names(given: Any) -> str:
    trackers = given if isinstance(given, (list, tuple)) else [given]
    return ", ".join(str(getattr(one, "name", one)) for one in trackers)
