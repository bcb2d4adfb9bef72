"""From what ``fit`` was asked for to a Run: batches, loss, optimizer and schedule, with accelerate's hand on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from petl.data.inputs import classes_of, feed, first_look
from petl.data.loaders import Loader, on_device
from petl.data.origins import pipeline_of
from petl.errors import StateError
from petl.extraction.decision import Loaders, road
from petl.extraction.entry import NoRoom
from petl.extraction.extraction import Road
from petl.training.checkpoints import load_checkpoint, newest_checkpoint, save_trained_only
from petl.training.held_out import held_out_files
from petl.training.history import History
from petl.training.losses import create_criterion, create_mix
from petl.training.optimizers import create_ema, create_optimizer, create_scheduler
from petl.training.rehearsal import rehearse_saving
from petl.training.run import Run
from petl.training.settings import Settings
from petl.training.targets import refuse_targets
from petl.training.trained_state import trained_state
from petl.wrapping.frozen_base import prove_frozen
from petl.wrapping.record import record


def build_run(accelerator: Any, model: nn.Module, data: tuple[Any, Any], settings: Settings, progress: Any) -> Run:
    """Everything that the loop needs; at the point of the checkpoint, where the run resumes one."""
    model.to(accelerator.device).train()
    if record(model) is not None:
        prove_frozen(model, "not trained, because no delta could be saved")
    train, val, labels = _open_data(accelerator, model, data, settings)
    criterion = create_criterion(settings, train, len(labels)).to(accelerator.device)
    made = create_optimizer(model, settings)
    _refuse_early(settings)
    found, why, (train, val) = _features_or_images(accelerator, model, (train, val), settings, progress)
    net, optimizer = accelerator.prepare(found.net if found else model, made)
    train = on_device(accelerator, train)
    run = Run(
        accelerator=accelerator,
        settings=settings,
        model=model,
        net=net,
        train=train,
        val=on_device(accelerator, val) if val is not None else None,
        labels=labels,
        criterion=criterion,
        mix=create_mix(settings, len(labels)),
        optimizer=optimizer,
        scheduler=create_scheduler(optimizer, settings, -(-len(train) // settings.accumulate)),
        progress=progress,
        moving=trained_state(model),
        ema=create_ema(model, settings),
        history=History(settings.monitor),
        road=found,
        split=held_out_files(*data) if settings.out else None,
    )
    save_trained_only(accelerator, run.moving)
    accelerator.register_for_checkpointing(run)
    _resume(run)
    run.history.features = (
        found.word(len(train.dataset)) if found else f"each step ran the whole model: {why}" if why else ""
    )
    return run


def _features_or_images(
    accelerator: Any, model: nn.Module, loaders: Loaders, settings: Settings, progress: Any
) -> tuple[Road | None, str, Loaders]:
    """The road over features, which are then computed, and their batches; else None, why, and the batches of images."""
    found, why = road(accelerator, model, loaders, settings)
    if found is None:
        return None, why, loaders
    train, val = loaders
    try:
        features = found.train(train, settings.views or 1, progress)
        return found, "", (features, found.val(val, progress) if val is not None else None)
    except BaseException as error:
        found.close()
        if isinstance(error, NoRoom) and not (settings.cache or settings.views):
            return None, str(error), loaders
        raise


def _open_data(
    accelerator: Any, model: nn.Module, data: tuple[Any, Any], settings: Settings
) -> tuple[Loader, Loader | None, list[str]]:
    """Training and validation batches, looked at, and the names of the classes; the record notes what is known."""
    options: dict[str, Any] = {"batch_size": settings.batch_size, "workers": settings.workers, "keys": settings.keys}
    options["strict"] = settings.strict
    train = feed(data[0], model, training=True, classes=settings.names, seed=settings.seed, **options)
    known = settings.names if settings.labels is not None else classes_of(train) or recorded_labels(model)
    labels = output_names(accelerator, model, train, known)
    refuse_targets(train, labels, training=True)
    val = None if data[1] is None else feed(data[1], model, classes=known, **options)
    if val is not None:
        output_names(accelerator, model, val, known)
        refuse_targets(val, labels)
    _record_data(model, known, train)
    if settings.out is not None and accelerator.is_main_process:
        rehearse_saving(model, settings.out, labels)
    return train, val, labels


def recorded_labels(model: nn.Module) -> list[str] | None:
    """The class names in the model's record."""
    made = record(model)
    return made.labels if made else None


def output_names(accelerator: Any, model: nn.Module, loader: Loader, known: Sequence[str] | None) -> list[str]:
    """The names of the model's classes, or their numbers; the first image has then been tried."""
    classes = first_look(accelerator, model, loader, known)
    return list(known) if known else [str(number) for number in range(classes)]


def _record_data(model: nn.Module, labels: list[str] | None, train: Loader) -> None:
    """Class names and input pipeline belong in the delta."""
    made = record(model)
    if made is not None:
        made.labels = labels or made.labels
        made.pipeline = made.pipeline or pipeline_of(train.dataset)


def _refuse_early(settings: Settings) -> None:
    """What would be found out only after the features were computed: no such schedule, nothing to resume."""
    create_scheduler(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=settings.lr), settings, 1)
    if isinstance(settings.resume, (str, Path)) and newest_checkpoint(Path(settings.resume)) is None:
        raise StateError(
            f"resume={str(settings.resume)!r} holds no training checkpoint; it is the folder given to checkpoint="
        )


def _resume(run: Run) -> None:
    """Go on from the newest checkpoint of the folder; with ``resume=True`` there need not be one yet."""
    resume, folder = run.settings.resume, run.settings.checkpoint
    place = None if not resume else Path(folder or "") if resume is True else Path(resume)
    found = newest_checkpoint(place) if place else None
    if found:
        load_checkpoint(run.accelerator, found, run.moving)  # the learning rates come with the optimizer
