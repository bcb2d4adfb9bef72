"""The training loop: epochs of updates; each epoch is validated, and the best one is saved."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from petl.data.batches import set_epoch
from petl.data.first_image import output_of
from petl.data.loaders import all_parts
from petl.data.pairs import grouped
from petl.errors import DataError
from petl.graft.sharded import is_shard
from petl.objectives.own_loss import selected
from petl.training.compiling import compiler_errors
from petl.training.evaluation import validate_or_save
from petl.training.history import History
from petl.training.recovery import LossNotFinite, train_safely
from petl.training.rehearsal import prove_savable
from petl.training.run import Run
from petl.training.saving import save_best, save_run_file, write_epoch
from petl.training.stage_rates import highest_rate, warming_up
from petl.training.stages import begin_stage, note_closed
from petl.training.trained_state import copy_into
from petl.wrapping.frozen_base import prove_frozen
from petl.wrapping.lookup import record

MOST_SKIPPED = 20  # steps in a row; a scaler that starts at 2**16 is at 1 after 16 of them


def train_all(run: Run) -> History:
    """Trains from where the run is to its last epoch, or until ``patience`` or a callback ends it."""
    history, first = run.history, len(run.history)
    task = run.progress.add_task("", total=run.updates_planned, completed=run.updates, note="")
    run.callbacks.fit_begin(run)
    while len(history) < run.epochs and not history.stopped and not run.callbacks.stopping:
        start = time.perf_counter()
        begin_stage(run)
        row = run.solved or train_safely(run, functools.partial(train_epoch, run, len(history), task))
        if len(history) == 0 and record(run.model) is not None:
            with run.all_open():
                prove_frozen(run.model, "stopped after the first epoch, because no delta could be saved")
        run.progress.update(task, note=f"loss {row['train_loss']:.3f}, measuring" if run.val is not None else "")
        measure_and_keep(run, row, start, is_first=len(history) == first)
        run.callbacks.epoch_end(run, row)
    if run.callbacks.stopping:  # it is not in the checkpoint: a resume goes on
        history.stopped = True
        save_run_file(run)
    note_closed(run)
    return history


def measure_and_keep(run: Run, row: dict[str, Any], start: float, *, is_first: bool) -> None:
    """Measures an epoch, adds its row to the history, and writes its files; after the first one, it tries saving anyway.

    ``start`` is the time at which the epoch began.
    """
    history, patience = run.history, run.settings.run.patience
    with run.averaged():
        row.update(validate_or_save(run, row), seconds=time.perf_counter() - start)
        failure = save_best(run) if history.add(row) else None
    history.stopped = patience is not None and history.stale >= patience
    if run.stages:
        history.stopped = run.stages.after_epoch(run, row)
    write_epoch(run, row)
    if failure:
        raise failure
    if is_first and not (run.settings.run.out and history.best is row):
        with run.all_open():
            prove_savable(run.model)


def train_epoch(run: Run, epoch: int, task: Any) -> dict[str, Any]:
    """Trains on all training data once. Returns the first half of the epoch's row of the history."""
    run.progress.update(task, description=f"epoch {epoch + 1}/{run.epochs}", completed=run.updates)
    start_epoch(run, epoch)
    mean, images = MeanLoss(), 0
    with run.without_trunk():
        for window in grouped(valid_batches(run), run.settings.optim.accumulate):
            run.lr, count = highest_rate(run), sum(len(t) for _, t, _ in window)
            loss, images = update_weights(run, window, count, epoch), images + count
            run.history.first_loss = loss if run.history.first_loss is None else run.history.first_loss
            mean.add(loss, count)
            run.progress.update(task, advance=1, note=f"loss {loss:.3f}")
            run.callbacks.batch_end(run, loss)
            if run.callbacks.stopping:
                break
        sync_statistics(run)
    if not images:
        raise DataError(
            f"the training data gave no image in epoch {epoch + 1}; a loader has to start anew in each epoch"
        )
    stage = {"stage": run.stages.number} if run.stages else {}
    return {"epoch": epoch + 1, **stage, "train_loss": mean.value, "lr": run.lr}


class MeanLoss:
    """The mean loss per image of an epoch; the updates that a gradient scaler skips for a loss out of its range don't count."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, loss: float, count: int) -> None:
        if np.isfinite(loss):
            self.total, self.count = self.total + loss * count, self.count + count

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else float("nan")


def start_epoch(run: Run, epoch: int) -> None:
    """Seeds everything random: order of images, augmentation, dropout and mixup depend on seed, epoch and rank alone."""
    from accelerate.utils import set_seed

    parts = [run.settings.run.seed, epoch, run.accelerator.process_index]
    set_seed(int(np.random.SeedSequence(parts).generate_state(1)[0]))
    set_epoch(run.train, epoch)  # type: ignore[arg-type]  # Batches pass the number on as a DataLoader's parts do
    dataset: Any = run.train.dataset
    if hasattr(dataset, "set_epoch"):  # the next view of cached features
        dataset.set_epoch(epoch)
    run.net.train()  # what a stage keeps closed stays in evaluation mode


def valid_batches(run: Run) -> Iterator[tuple[Tensor, Tensor, Any]]:
    """Yields images, targets and the batch as it came, without images that couldn't be read."""
    for batch in run.train:
        images, targets = run.objective.images_and_targets(batch, run.model)
        read = run.objective.is_read(targets)
        if read.all():
            yield images, targets, all_parts(batch)
        elif read.any():
            yield images[read], targets[read], selected(all_parts(batch), read)


def update_weights(run: Run, window: Sequence[tuple[Tensor, Tensor, Any]], count: int, epoch: int) -> float:
    """Takes one step of the optimizer on the mean loss over all images of a window of batches. Returns that loss."""
    accelerator, loss = run.accelerator, torch.zeros((), device=run.accelerator.device)
    compiled = run.settings.loop.compile
    for number, (images, targets, batch) in enumerate(window, start=1):
        last = number == len(window)
        with contextlib.nullcontext() if last else accelerator.no_sync(run.net), compiler_errors(compiled):
            part = batch_loss(run, images, targets, batch) * (len(targets) / count)
            accelerator.backward(part)
        loss += part.detach()
    value = accelerator.reduce(loss, reduction="mean").item()  # type: ignore[union-attr]  # a tensor, as it was given
    refuse_non_finite(run, value, epoch, scaled=accelerator.scaler is not None)
    if (largest := run.settings.optim.largest_norm) is not None:
        accelerator.clip_grad_norm_([p for p in run.model.parameters() if p.requires_grad], largest)
    with warming_up(run):
        run.optimizer.step()
    run.optimizer.zero_grad()
    if getattr(run.optimizer, "step_was_skipped", False):  # by the scaler, which lowers its scale: nothing has moved
        run.skipped += 1
    else:
        refuse_non_finite(run, value, epoch, scaled=False)  # the scaler found no fault with its gradients
        count_update(run)
    return value


def count_update(run: Run) -> None:
    """Moves the schedule and the averages on, after a step of the optimizer."""
    run.updates, run.skipped = run.updates + 1, 0
    if run.scheduler:
        run.scheduler.step_update(run.updates)
    if run.ema:
        run.ema.update(run.model, step=run.updates)


def batch_loss(run: Run, images: Tensor, targets: Tensor, batch: Any) -> Tensor:
    """Returns the mean loss of a batch. In the first one, a DataError says what is wrong with images that the net refuses."""
    net = (
        run.net if run.updates or run.settings.loop.compile else functools.partial(output_of, run.net)
    )  # a net may refuse in training what it evaluates
    return run.objective.loss(net, images, targets, batch)


def refuse_non_finite(run: Run, loss: float, epoch: int, *, scaled: bool) -> None:
    """Raises a LossNotFinite for a loss that is no number, before the step: the weights are still those of the update before.

    Where a scaler watches the gradients (``scaled``, fp16), it skips such steps by itself: many in a row are refused.
    """
    if np.isfinite(loss) or (scaled and run.skipped < MOST_SKIPPED):
        return
    kept = (
        f"; {run.settings.run.out} holds epoch {run.history.best['epoch']}"
        if run.settings.run.out and run.history.best
        else ""
    )
    lr = max(group["lr"] for group in run.optimizer.param_groups)
    raise LossNotFinite(
        f"the loss is {loss} in epoch {epoch + 1}, update {run.updates + 1}: try a lower lr (now {lr:g}), "
        f"clip=1.0, more warmup_epochs, or precision='no', and look for NaN in the images{kept}"
    )


def sync_statistics(run: Run) -> None:
    """Copies the running statistics of rank 0 to all ranks."""
    from accelerate.utils import broadcast

    if run.accelerator.num_processes > 1:
        for values in (run.trained, run.average):
            whole = {name: tensor for name, tensor in values.items() if not is_shard(tensor)}  # shards differ, and no
            shared: Any = {name: broadcast(tensor.detach().clone()) for name, tensor in whole.items()}
            copy_into(whole, shared)
