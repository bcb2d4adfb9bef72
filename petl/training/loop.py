"""The training loop: epochs of updates, each epoch measured, the best kept."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petl.data.bad_files import LEFT_OUT
from petl.data.batches import set_epoch
from petl.data.first_image import output_of
from petl.data.logits import require_logits
from petl.data.pairs import Batch, grouped, images_and_labels
from petl.delta.delta import read
from petl.errors import DataError, PetlError, printable
from petl.training.checkpoints import copied, newest, put, write
from petl.training.metrics import History, Metrics, measured
from petl.training.rehearsal import keep_delta, still_savable
from petl.training.runs import note_run
from petl.wrapping.frozen_base import prove_frozen
from petl.wrapping.modes import in_eval
from petl.wrapping.record import record

log = logging.getLogger(__name__)


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
            "average": copied(self.average),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history, self.updates, self.best = History(**state["history"]), state["updates"], state["best"]
        put(self.average, state["average"])

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The model has the averaged values inside, where averages are kept."""
        own = copied(self.moving) if self.ema else {}
        if self.ema:
            put(self.moving, self.average)
        try:
            yield
        finally:
            if self.ema:
                put(self.moving, own)

    def settle(self) -> None:
        """Leave the model with the values that were asked for, in evaluation mode, and its record with its results."""
        if self.settings.keep == "best" and self.best:
            put(self.moving, self.best)
        elif self.ema and self.updates:
            put(self.moving, self.average)
        made = record(self.model)
        if made is not None and self.history.rows:
            made.results = self.history.best if self.settings.keep == "best" else self.history.rows[-1]
        self.model.eval()
        if self.road:
            self.road.close()

    def skipping(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, the net can run: where it trains on features, the frozen part is stepped over."""
        return self.road.skipping() if self.road else contextlib.nullcontext()


def train_all(run: Run) -> History:
    """Train from where the run is to its last epoch, or until it gets no better."""
    settings, history = run.settings, run.history
    updates = -(-len(run.train) // settings.accumulate)
    task = run.progress.add_task("", total=settings.epochs * updates, completed=run.updates, note="")
    first = len(history)
    for epoch in range(first, settings.epochs):
        if history.stopped:
            break
        run.progress.update(task, description=f"epoch {epoch + 1}/{settings.epochs}")
        start = time.perf_counter()
        with run.skipping():
            row = train_epoch(run, epoch, task)
        if epoch == 0 and record(run.model) is not None:
            prove_frozen(run.model, "stopped after the first epoch, because no delta could be saved")
        run.progress.update(task, note=f"loss {row['train_loss']:.3f}, measuring" if run.val is not None else "")
        with run.averaged():
            row.update(validated(run, row), seconds=time.perf_counter() - start)
            failed = keep(run) if history.add(row) else None
        tell(run, history.line(row, settings.epochs))
        history.stopped = settings.patience is not None and history.stale >= settings.patience
        note(run)
        if settings.checkpoint:
            write(run.accelerator, Path(settings.checkpoint), epoch + 1)
        if failed:
            raise failed
        if epoch == first and not (settings.out and history.best is row):
            still_savable(run.model)
        if settings.on_epoch:
            settings.on_epoch(row)
    return history


def train_epoch(run: Run, epoch: int, task: Any) -> dict[str, Any]:
    """One pass over the training data: the first half of the epoch's row."""
    start_epoch(run, epoch)
    total = images = 0
    lr = 0.0
    for window in grouped(checked(run), run.settings.accumulate):
        lr, count = max(group["lr"] for group in run.optimizer.param_groups), sum(len(t) for _, t in window)
        loss = update(run, window, count, epoch)
        total, images = total + loss * count, images + count
        run.progress.update(task, advance=1, note=f"loss {loss:.3f}")
    agree(run)
    if not images:
        raise DataError(
            f"the training data gave no image in epoch {epoch + 1}; a loader has to start anew in each epoch"
        )
    return {"epoch": epoch + 1, "train_loss": total / images, "lr": lr}


def start_epoch(run: Run, epoch: int) -> None:
    """The order of the images, their augmentation, dropout and mixup depend on seed and epoch (and rank) alone."""
    from accelerate.utils import set_seed

    parts = [run.settings.seed, epoch, run.accelerator.process_index]
    set_seed(int(np.random.SeedSequence(parts).generate_state(1)[0]))
    set_epoch(run.train, epoch)
    if hasattr(run.train.dataset, "set_epoch"):  # the next view of features
        run.train.dataset.set_epoch(epoch)
    run.net.train()


def checked(run: Run) -> Iterator[Batch]:
    """The epoch's batches, without images that couldn't be read."""
    for images, targets in (images_and_labels(batch, run.model, len(run.labels)) for batch in run.train):
        read = targets != LEFT_OUT
        if read.all():
            yield images, targets
        elif read.any():
            yield images[read], targets[read]


def update(run: Run, window: Sequence[Batch], count: int, epoch: int) -> float:
    """One step of the optimizer on the mean loss over all images of the window."""
    accelerator, loss = run.accelerator, torch.zeros((), device=run.accelerator.device)
    for number, (images, targets) in enumerate(window, start=1):
        last = number == len(window)
        with contextlib.nullcontext() if last else accelerator.no_sync(run.net):
            part = batch_loss(run, images, targets) * (len(targets) / count)
            accelerator.backward(part)
        loss += part.detach()
    value = accelerator.reduce(loss, reduction="mean").item()
    refuse_non_finite(run, value, epoch)
    if run.settings.clip is not None:
        accelerator.clip_grad_norm_([p for p in run.model.parameters() if p.requires_grad], run.settings.clip)
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.updates += 1
    if run.scheduler:
        run.scheduler.step_update(run.updates)
    if run.ema:
        run.ema.update(run.model, step=run.updates)
    return value


def batch_loss(run: Run, images: Tensor, targets: Tensor) -> Tensor:
    if run.mix:
        images, targets = run.mix(images, targets)
    output = (
        run.net(images) if run.updates else output_of(run.net, images)
    )  # a model may train on less than it evaluates
    return run.criterion(require_logits(output).float(), targets)


def refuse_non_finite(run: Run, loss: float, epoch: int) -> None:
    """Before the step: the weights are still those of the update before."""
    if np.isfinite(loss):
        return
    kept = (
        f"; {run.settings.out} holds epoch {run.history.best['epoch']}" if run.settings.out and run.history.best else ""
    )
    raise PetlError(
        f"the loss is {loss} in epoch {epoch + 1}, update {run.updates + 1}: try a lower lr (now {run.settings.lr:g}), "
        f"clip=1.0, more warmup_epochs, or precision='no', and look for NaN in the images{kept}"
    )


def agree(run: Run) -> None:
    """Running statistics are each rank's own; those of the first one hold."""
    from accelerate.utils import broadcast

    if run.accelerator.num_processes > 1:
        for values in (run.moving, run.average):
            put(values, {name: broadcast(tensor.detach().clone()) for name, tensor in values.items()})


def validate(run: Run) -> dict[str, float]:
    if run.val is None:
        return {}
    with run.skipping():
        return measure(run.accelerator, run.net, run.val, run.labels).scalars


def validated(run: Run, row: dict[str, Any]) -> dict[str, float]:
    """The same; where it fails before any delta is kept, this epoch's is."""
    try:
        return validate(run)
    except Exception:
        if run.settings.out and not run.history.best and run.accelerator.is_main_process:
            with contextlib.suppress(PetlError):
                keep_delta(run.model, run.settings.out, run.labels, row)
                log.warning("validation failed; %s holds epoch %d as it was trained", run.settings.out, row["epoch"])
        raise


@torch.no_grad()
def measure(accelerator: Any, net: nn.Module, loader: Any, labels: list[str], tick: Callable[[], Any] = int) -> Metrics:
    """The net's metrics on all batches of all ranks."""
    parts = []
    with in_eval(net):
        for batch in loader:
            images, targets = images_and_labels(batch, net, len(labels))
            with accelerator.autocast():
                answers = require_logits(net(images))
            losses = F.cross_entropy(answers.float(), targets, reduction="none")
            found = accelerator.gather_for_metrics((losses, answers.argmax(1), targets))
            parts.append([part.cpu() for part in found])
            tick()
    if not parts:
        raise DataError("the data gave no image to measure the model on; a loader has to start anew each time")
    losses, predicted, targets = (torch.cat(part) for part in zip(*parts, strict=True))
    read = targets != LEFT_OUT  # the others are files that couldn't be read
    if not read.any():
        raise DataError(f"none of the {len(read)} images can be read; the log names each with its reason")
    return measured(losses[read], predicted[read], targets[read], labels)


def keep(run: Run) -> PetlError | None:
    """This epoch is the best so far: remember its values, and write its delta; why that can't be, to be raised later."""
    failed = None
    if run.settings.keep == "best":
        run.best = copied(run.moving)
    if run.settings.out and run.accelerator.is_main_process:
        try:
            keep_delta(run.model, run.settings.out, run.labels, run.history.best)
        except PetlError as error:
            failed = error
    run.accelerator.wait_for_everyone()
    return failed


def note(run: Run) -> None:
    """Settings, history and split go beside the delta; an epoch isn't lost where they can't."""
    if run.settings.out and run.accelerator.is_main_process:
        try:
            note_run(run.settings.out, run.settings, run.history, run.split)
        except PetlError as error:
            log.warning("%s", error)


def tell(run: Run, line: str) -> None:
    """A line on stderr: above the bar on a terminal, one after the other in log files and notebooks."""
    if run.settings.progress and run.accelerator.is_main_process:
        run.progress.console.print(printable(line), markup=False, emoji=False, highlight=False, soft_wrap=True)


def interrupted(run: Run) -> None:
    """Say what is left of a training that Ctrl-C ended."""
    settings, kept = run.settings, []
    if settings.out and (row := written(run)):
        kept.append(f"{settings.out} holds {run.history.told(row)}")
    if settings.checkpoint and (place := newest(Path(settings.checkpoint))):
        kept.append(f"{place} is the last whole epoch, from which resume goes on")
    tell(run, f"interrupted in epoch {len(run.history) + 1}: {'; '.join(kept) or 'nothing was written'}")


def written(run: Run) -> dict[str, Any] | None:
    """The row of this run's epoch whose values are in ``out``."""
    with contextlib.suppress(PetlError):
        results = read(run.settings.out)["results"] or {}
        same = ("epoch", "train_loss", "seconds")
        return next((row for row in run.history.rows if all(row[k] == results.get(k) for k in same)), None)
    return None
