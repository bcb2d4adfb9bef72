"""Opens the data of a training: batches, the objective that their targets ask for, and what the model's record learns of both."""

from __future__ import annotations

from typing import Any

from torch import nn

from petl.data.dataset_tasks import dataset_task
from petl.data.inputs import as_loader, loader_classes
from petl.data.loaders import Loader
from petl.data.wrappers import pipeline_of
from petl.objectives.choice import names_outputs, task_of
from petl.objectives.protocol import Task
from petl.training.objectives import OpenObjective, open_objective, try_targets, write_record
from petl.training.rehearsal import rehearse_saving
from petl.training.settings import Settings
from petl.wrapping.lookup import record


def open_data(
    accelerator: Any, model: nn.Module, data: tuple[Any, Any], settings: Settings
) -> tuple[Loader, Loader | None, OpenObjective]:
    """Returns training and validation batches and the objective, after a look at the first image of each.

    The model's record gets the class names, what the outputs mean, and the input pipeline.
    """
    options: dict[str, Any] = {
        name: getattr(settings.run, name) for name in ("batch_size", "workers", "keys", "strict")
    }
    drawn: dict[str, Any] = {name: getattr(settings.run, name) for name in ("seed", "transform", "sampling")}
    train = as_loader(data[0], model, training=True, classes=settings.run.names, **drawn, **options)
    task = task_of(settings.objective.objective, recorded_task(model), dataset_task(train.dataset))
    known = settings.run.names or own_names(train, task) or recorded_labels(model)
    aux = settings.objective.aux
    opened = open_objective(accelerator, model, train, task, known, settings.loss, aux)
    settings.objective.refuse_for(opened.task, settings.loss, settings.run.monitor)
    opened.objective.refuse_targets(train, training=True)
    same = known if opened.task.label_per_output else None  # features are measured on classes of any kind
    val = None if data[1] is None else as_loader(data[1], model, classes=same, **options)
    if val is not None:
        try_targets(accelerator, model, val, opened)
    _record_data(model, opened, train)
    if settings.run.out is not None and accelerator.is_main_process:
        rehearse_saving(model, settings.run.out, opened.labels)
    return train, val, opened


def own_names(loader: Loader, task: Task | None) -> list[str] | None:
    """Returns the names in the data where they are those of a task's outputs."""
    return loader_classes(loader) if names_outputs(task, dataset_task(loader.dataset)) else None


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
