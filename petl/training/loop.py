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
from petl.errors import DataError, PetlError
from petl.objectives.own_loss import selected
from petl.training.evaluation import validate_or_save
from petl.training.history import History
from petl.training.rehearsal import prove_savable
from petl.training.run import Run
from petl.training.saving import save_best, write_epoch
from petl.training.trained_state import copy_into
from petl.wrapping.frozen_base import prove_frozen
from petl.wrapping.lookup import record


def train_all(run: Run) -> History:
    """Trains from where the run is to its last epoch, or until ``patience`` ends it."""
    settings, history = run.settings, run.history
    total = settings.optim.epochs * -(-len(run.train) // settings.optim.accumulate)
    task = run.progress.add_task("", total=total, completed=run.updates, note="")
    first = len(history)
    for epoch in range(first, settings.optim.epochs):
        if history.stopped:
            break
        start = time.perf_counter()
        row = train_epoch(run, epoch, task)
        if epoch == 0 and record(run.model) is not None:
            prove_frozen(run.model, "stopped after the first epoch, because no delta could be saved")
        run.progress.update(task, note=f"loss {row['train_loss']:.3f}, measuring" if run.val is not None else "")
        with run.averaged():
            row.update(validate_or_save(run, row), seconds=time.perf_counter() - start)
            failure = save_best(run) if history.add(row) else None
        history.stopped = settings.run.patience is not None and history.stale >= settings.run.patience
        write_epoch(run, row)
        if failure:
            raise failure
        if epoch == first and not (settings.run.out and history.best is row):
            prove_savable(run.model)
        if settings.run.on_epoch:
            settings.run.on_epoch(row)
    return history


def train_epoch(run: Run, epoch: int, task: Any) -> dict[str, Any]:
    """Trains on all training data once. Returns the first half of the epoch's row of the history."""
    run.progress.update(task, description=f"epoch {epoch + 1}/{run.settings.optim.epochs}")
    start_epoch(run, epoch)
    total = images = 0
    lr = 0.0
    with run.without_trunk():
        for window in grouped(valid_batches(run), run.settings.optim.accumulate):
            lr, count = max(group["lr"] for group in run.optimizer.param_groups), sum(len(t) for _, t, _ in window)
            loss = update_weights(run, window, count, epoch)
            total, images = total + loss * count, images + count
            run.progress.update(task, advance=1, note=f"loss {loss:.3f}")
        sync_statistics(run)
    if not images:
        raise DataError(
            f"the training data gave no image in epoch {epoch + 1}; a loader has to start anew in each epoch"
        )
    return {"epoch": epoch + 1, "train_loss": total / images, "lr": lr}


def start_epoch(run: Run, epoch: int) -> None:
    """Seeds everything random: order of images, augmentation, dropout and mixup depend on seed, epoch and rank alone."""
    from accelerate.utils import set_seed

    parts = [run.settings.run.seed, epoch, run.accelerator.process_index]
    set_seed(int(np.random.SeedSequence(parts).generate_state(1)[0]))
    set_epoch(run.train, epoch)  # type: ignore[arg-type]  # Batches pass the number on as a DataLoader's parts do
    dataset: Any = run.train.dataset
    if hasattr(dataset, "set_epoch"):  # the next view of cached features
        dataset.set_epoch(epoch)
    run.net.train()


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
    for number, (images, targets, batch) in enumerate(window, start=1):
        last = number == len(window)
        with contextlib.nullcontext() if last else accelerator.no_sync(run.net):
            part = batch_loss(run, images, targets, batch) * (len(targets) / count)
            accelerator.backward(part)
        loss += part.detach()
    value = accelerator.reduce(loss, reduction="mean").item()  # type: ignore[union-attr]  # a tensor, as it was given
    refuse_non_finite(run, value, epoch)
    if run.settings.optim.clip is not None:
        accelerator.clip_grad_norm_([p for p in run.model.parameters() if p.requires_grad], run.settings.optim.clip)
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.updates += 1
    if run.scheduler:
        run.scheduler.step_update(run.updates)
    if run.ema:
        run.ema.update(run.model, step=run.updates)
    return value


def batch_loss(run: Run, images: Tensor, targets: Tensor, batch: Any) -> Tensor:
    """Returns the mean loss of a batch. In the first one, a DataError says what is wrong with images that the net refuses."""
    net = (
        run.net if run.updates else functools.partial(output_of, run.net)
    )  # a net may refuse in training what it evaluates
    return run.objective.loss(net, images, targets, batch)


def refuse_non_finite(run: Run, loss: float, epoch: int) -> None:
    """Raises a PetlError for a loss that is no number, before the step: the weights are still those of the update before."""
    if np.isfinite(loss):
        return
    kept = (
        f"; {run.settings.run.out} holds epoch {run.history.best['epoch']}"
        if run.settings.run.out and run.history.best
        else ""
    )
    raise PetlError(
        f"the loss is {loss} in epoch {epoch + 1}, update {run.updates + 1}: try a lower lr (now {run.settings.optim.lr:g}), "
        f"clip=1.0, more warmup_epochs, or precision='no', and look for NaN in the images{kept}"
    )


def sync_statistics(run: Run) -> None:
    """Copies the running statistics of rank 0 to all ranks."""
    from accelerate.utils import broadcast

    if run.accelerator.num_processes > 1:
        for values in (run.trained, run.average):
            copy_into(values, {name: broadcast(tensor.detach().clone()) for name, tensor in values.items()})
