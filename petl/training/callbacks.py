"""Callbacks of `fit`: which methods they may have, and what they see of the training."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from petl.errors import PetlError, listing, near

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from petl.training.history import History


class Training:
    """What a callback sees of a training under way, to be read; `stop` is the one thing that it can ask for.

    The objects are those of the training itself, not copies: `model` (the one that was given to `fit`), `optimizer` (torch's)
    and `history`.
    """

    def __init__(self, run: Any):
        self._run = run
        self._epoch = len(run.history) + 1
        self._stop = False

    def __repr__(self) -> str:
        return f"Training(epoch {self.epoch} of {self.epochs}, update {self.update} of {self.updates})"

    @property
    def model(self) -> nn.Module:
        """Returns the model that is trained; with ``ema=``, it holds its own values, not the averages."""
        return self._run.model

    @property
    def optimizer(self) -> Optimizer:
        """Returns torch's optimizer."""
        return getattr(self._run.optimizer, "optimizer", self._run.optimizer)

    @property
    def history(self) -> History:
        """Returns the history so far: rows of whole epochs."""
        return self._run.history

    @property
    def epoch(self) -> int:
        """Returns the number of the epoch, from 1: the one under way, the one that has just ended, or in on_fit_begin the first.

        After a resume the first one is not 1.
        """
        return self._epoch

    @property
    def epochs(self) -> int:
        """Returns the number of epochs that were asked for; ``patience`` and `stop` may end the training before."""
        return self._run.epochs

    @property
    def update(self) -> int:
        """Returns how many steps the optimizer has taken, those before a resume included."""
        return self._run.updates

    @property
    def updates(self) -> int:
        """Returns how many steps the optimizer takes in all."""
        return self._run.updates_planned

    @property
    def lr(self) -> float:
        """Returns the learning rate of the last update, or before the first one its own: the largest of all parameter groups."""
        now = max(group["lr"] for group in self._run.optimizer.param_groups)
        return now if self._run.lr is None else self._run.lr

    @property
    def is_main(self) -> bool:
        """Returns whether this is the first process: the one to print and to write files."""
        return self._run.accelerator.is_main_process

    def stop(self) -> None:
        """Ends the training after this update or epoch; the epoch is measured, saved and added to the history as ever."""
        self._stop = True


class Callback:
    """A base class for what is called during a training: ``petl.fit(..., callbacks=Mine())``. Each method does nothing here.

    A callback needn't derive from it: any object with one or more of these methods will do. ``run`` is a `Training`. Several are
    called in their order, ``on_epoch`` after them. Under several processes, all of them call it; ``run.is_main`` is true in the
    first. What it raises ends the training as Ctrl-C does: it is raised from `fit`, the files of whole epochs are there, and the
    model is in evaluation mode.

    >>> import petl, timm, torch
    >>> class Patient(petl.Callback):
    ...     def on_epoch_end(self, run, row):
    ...         if row["train_loss"] < 0.01:
    ...             run.stop()
    >>> data = torch.utils.data.TensorDataset(torch.randn(8, 3, 64, 64), torch.arange(8) % 2)
    >>> model = petl.wrap(timm.create_model("test_resnet"), "bn", num_classes=2)
    >>> len(petl.fit(model, data, epochs=2, lr=1e-3, callbacks=Patient(), progress=False)) <= 2
    True
    """

    def on_fit_begin(self, run: Training) -> None:
        """Called once, before the first epoch: ``run.epoch`` is that epoch, also after a resume."""

    def on_batch_end(self, run: Training, loss: float) -> None:
        """Called after each update (of ``accumulate`` batches) with its mean loss over all its images and processes."""

    def on_epoch_end(self, run: Training, row: dict[str, Any]) -> None:
        """Called after each epoch with its row of the history, when it is measured and its files are written."""

    def on_fit_end(self, run: Training, history: History) -> None:
        """Called once when the training is over and the model is as `fit` leaves it; not after an error or Ctrl-C."""


CALLBACK_ARGUMENTS = {
    "on_fit_begin": 1,
    "on_batch_end": 2,
    "on_epoch_end": 2,
    "on_fit_end": 2,
}  # of each method, without self


def as_callbacks(given: Any) -> list[Any]:
    """Returns callbacks as a list: none, the one, or those of a list.

    Raises:
        PetlError: one has none of the methods, one whose name is a misspelling, or one that takes other arguments.
    """
    callbacks = [] if given is None else list(given) if isinstance(given, Sequence) else [given]
    for one in callbacks:
        _refuse_callback(one)
    return callbacks


def _refuse_callback(callback: Any) -> None:
    if isinstance(callback, type):
        raise PetlError(f"callbacks={callback.__name__}; expected an object, not its class: {callback.__name__}()")
    kind, names = type(callback).__name__, [name for name in dir(callback) if name.startswith("on_")]
    for name in names:
        if name not in CALLBACK_ARGUMENTS and (hint := near(name, CALLBACK_ARGUMENTS, most=1, cutoff=0.75)):
            raise PetlError(f"callbacks: {kind}.{name} would never be called{hint}")
    known = [name for name in CALLBACK_ARGUMENTS if callable(getattr(callback, name, None))]
    if not known:
        hint = "; a function of each epoch's row is on_epoch=" if callable(callback) else ""
        raise PetlError(f"callbacks: {kind} has none of {listing(CALLBACK_ARGUMENTS)}{hint}")
    for name in known:
        try:
            inspect.signature(getattr(callback, name)).bind(*[None] * CALLBACK_ARGUMENTS[name])
        except TypeError as error:
            wanted = inspect.signature(getattr(Callback, name))
            raise PetlError(f"callbacks: {kind}.{name} can't be called ({error}); expected {name}{wanted}") from None
        except ValueError:  # a builtin without a signature
            pass
