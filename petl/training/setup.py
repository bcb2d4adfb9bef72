"""Builds a Run from the arguments of ``fit``: batches, objective, optimizer and schedule, prepared by accelerate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from petl.data.inputs import as_loader, loader_classes
from petl.data.loaders import Loader, on_device
from petl.data.wrappers import pipeline_of
from petl.errors import StateError
from petl.extraction.decision import Decision, Loaders, RunModel, choose_features
from petl.extraction.npy_writer import StorageError
from petl.extraction.reasons import NoRoom
from petl.objectives.choice import task_for
from petl.training.checkpoints import load_checkpoint, newest_checkpoint, save_trained_only
from petl.training.held_out import held_out_files
from petl.training.history import History
from petl.training.objectives import OpenObjective, open_objective, standardise, try_targets, write_record
from petl.training.optimizers import create_ema, create_optimizer, create_scheduler
from petl.training.rehearsal import rehearse_saving
from petl.training.run import Run
from petl.training.settings import Settings
from petl.training.trained_state import trained_state
from petl.wrapping.frozen_base import prove_frozen
from petl.wrapping.lookup import record


def build_run(accelerator: Any, model: nn.Module, data: tuple[Any, Any], settings: Settings, progress: Any) -> Run:
    """Returns the run that the loop needs, at the point of its checkpoint where it resumes one."""
    model.to(accelerator.device).train()
    if record(model) is not None:
        prove_frozen(model, "not trained, because no delta could be saved")
    train, val, opened = _open_data(accelerator, model, data, settings)
    opened.objective.prepare(train, accelerator.device)
    notes = standardise(accelerator, model, opened.objective, train)
    optimizer = create_optimizer(model, settings.optim)
    _refuse_early(settings)
    decision, (train, val) = _features_or_images(accelerator, model, (train, val), settings, progress)
    net, optimizer = accelerator.prepare(decision.source.net if decision.source else model, optimizer)
    train = on_device(accelerator, train)
    run = Run(
        accelerator=accelerator,
        settings=settings,
        model=model,
        net=net,
        train=train,
        val=on_device(accelerator, val) if val is not None else None,
        opened=opened,
        optimizer=optimizer,
        scheduler=create_scheduler(optimizer, settings.optim, -(-len(train) // settings.optim.accumulate)),
        progress=progress,
        trained=trained_state(model),
        ema=create_ema(model, settings.optim),
        history=History(opened.task.checked_monitor(settings.run.monitor), notes=notes),
        features=decision.source,
        split=held_out_files(*data) if settings.run.out else None,
    )
    save_trained_only(accelerator, run.trained)
    accelerator.register_for_checkpointing(run)
    _resume(run)
    run.history.features = decision.describe(len(train.dataset) if decision.source else 0)
    return run


def _features_or_images(
    accelerator: Any, model: nn.Module, loaders: Loaders, settings: Settings, progress: Any
) -> tuple[Decision, Loaders]:
    """Computes the features if they are to be used; returns the decision, and the loaders of features or images."""
    decision = choose_features(accelerator, model, loaders, settings.features)
    if decision.source is None:
        return decision, loaders
    train, val = loaders
    try:
        features = decision.source.train(train, settings.features.views or 1, progress)
        return decision, (features, decision.source.val(val, progress) if val is not None else None)
    except BaseException as error:
        decision.source.close()
        if isinstance(error, StorageError) and not (settings.features.cache or settings.features.views):
            return RunModel(NoRoom(str(error))), loaders
        raise


def _open_data(
    accelerator: Any, model: nn.Module, data: tuple[Any, Any], settings: Settings
) -> tuple[Loader, Loader | None, OpenObjective]:
    """Returns training and validation batches and the objective, after a look at the first image of each.

    The model's record gets the class names, what the outputs mean, and the input pipeline.
    """
    options: dict[str, Any] = {
        name: getattr(settings.run, name) for name in ("batch_size", "workers", "keys", "strict")
    }
    train = as_loader(data[0], model, training=True, classes=settings.run.names, seed=settings.run.seed, **options)
    known = settings.run.names if settings.run.labels is not None else loader_classes(train) or recorded_labels(model)
    task, aux = task_for(settings.objective.objective, recorded_task(model)), settings.objective.aux
    opened = open_objective(accelerator, model, train, task, known, settings.loss, aux)
    opened.objective.refuse_targets(train, training=True)
    same = known if opened.task.label_per_output else None  # features are measured on classes of any kind
    val = None if data[1] is None else as_loader(data[1], model, classes=same, **options)
    if val is not None:
        try_targets(accelerator, model, val, opened)
    _record_data(model, opened, train)
    if settings.run.out is not None and accelerator.is_main_process:
        rehearse_saving(model, settings.run.out, opened.labels)
    return train, val, opened


def recorded_labels(model: nn.Module) -> list[str] | None:
    """Returns the class names in the model's record."""
    wrapped = record(model)
    return wrapped.labels if wrapped else None


def recorded_task(model: nn.Module) -> str | None:
    """Returns the task in the model's record."""
    wrapped = record(model)
    return wrapped.task if wrapped else None


def _record_data(model: nn.Module, opened: OpenObjective, train: Loader) -> None:
    """Writes output names, task and input pipeline into the model's record, from which they get into the delta."""
    wrapped = record(model)
    if wrapped is not None:
        wrapped.labels = opened.names or (wrapped.labels if opened.task.label_per_output else None)
        wrapped.pipeline = wrapped.pipeline or pipeline_of(train.dataset)
    write_record(model, opened)


def _refuse_early(settings: Settings) -> None:
    """Refuses an unknown schedule and a missing checkpoint before features are computed, which may take long."""
    create_scheduler(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=settings.optim.lr), settings.optim, 1)
    if isinstance(settings.run.resume, (str, Path)) and newest_checkpoint(Path(settings.run.resume)) is None:
        raise StateError(
            f"resume={str(settings.run.resume)!r} holds no training checkpoint; it is the folder given to checkpoint="
        )


def _resume(run: Run) -> None:
    """Loads the newest checkpoint of the folder; with ``resume=True`` there need not be one yet."""
    resume, folder = run.settings.run.resume, run.settings.run.checkpoint
    place = None if not resume else Path(folder or "") if resume is True else Path(resume)
    newest = newest_checkpoint(place) if place else None
    if newest:
        load_checkpoint(run.accelerator, newest, run.trained)  # the learning rates come with the optimizer
    elif run.scale and run.scale.in_units:
        run.scale.unfold()
