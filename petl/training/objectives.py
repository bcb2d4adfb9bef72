"""Makes the objective of a training or an evaluation for one model and its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from petl.data.first_image import count_outputs, one_image, refuse_label_count
from petl.data.loaders import Loader
from petl.data.pairs import are_bools, images_and_targets
from petl.objectives.choice import inferred_task
from petl.objectives.classification import CrossEntropy
from petl.objectives.protocol import Aux, LossOptions, Objective, Setting, Task
from petl.objectives.standardisation import find_standardisation, sample_of
from petl.wrapping.lookup import record

__all__ = ["CrossEntropy", "Objective", "OpenObjective", "open_objective", "standardise", "try_targets", "write_record"]


SHARING = ("FSDP", "DEEPSPEED", "MEGATRON_LM")  # accelerate's names of ways that share out a model's tensors


@dataclass(frozen=True)
class OpenObjective:
    """An objective, the task that it is of, and the number and the names of the model's outputs (None: they have none)."""

    task: Task
    objective: Objective
    outputs: int
    names: list[str] | None

    @property
    def labels(self) -> list[str] | None:
        """Returns what a delta calls the outputs: their names, or, where they stand for classes, their numbers."""
        return self.names or ([str(number) for number in range(self.outputs)] if self.task.numbered else None)


def open_objective(
    accelerator: Any,
    model: nn.Module,
    loader: Loader,
    task: Task | None,
    names: list[str] | None,
    losses: LossOptions | None = None,
    aux: Aux = "first",
) -> OpenObjective:
    """Returns the objective, after a look at the first image of the data: the targets' kind, and the model's outputs.

    Without ``losses`` it only measures.

    Raises:
        DataError: batches aren't pairs, the model can't take the image, it has no outputs, or targets or names don't fit them.
    """
    batch = one_image(loader)
    images, targets = images_and_targets(batch, model)
    if targets.ndim == 1 and are_bools(batch) and (task is None or task.task == "classification"):
        targets = targets.long()
    task = task or inferred_task(targets)
    task.refuse_kind(targets, loader.dataset)
    outputs = count_outputs(accelerator, model, images)
    names = task.output_names(names, outputs) if task.label_per_output else None
    refuse_label_count(names, outputs, numbers=task.task == "regression")
    wrapped = record(model)
    recorded = {name: getattr(wrapped, name) for name in ("units", "thresholds", "quantiles")} if wrapped else {}
    fits = wrapped is not None and wrapped.task == task.task
    setting = Setting(model, outputs, names, losses, aux, recorded if fits else {})
    objective = task.create(setting)
    objective.images_and_targets(batch, model)
    return OpenObjective(task, objective, outputs, names)


def try_targets(accelerator: Any, model: nn.Module, loader: Loader, opened: OpenObjective) -> None:
    """Tries the model and the objective on the first image of more data."""
    batch = one_image(loader)
    outputs = count_outputs(accelerator, model, images_and_targets(batch, model)[0])
    refuse_label_count(opened.names, outputs)
    opened.objective.images_and_targets(batch, model)
    opened.objective.refuse_targets(loader)


def write_record(model: nn.Module, opened: OpenObjective) -> None:
    """Writes what the outputs mean into the model's record, from which it gets into the delta."""
    wrapped = record(model)
    if wrapped is None:
        return
    wrapped.task = opened.task.task or ""
    wrapped.temperature = wrapped.correction = None  # they were of the classifier before this training
    described = getattr(opened.objective, "described", dict)()
    for name in ("units", "thresholds", "quantiles"):
        setattr(wrapped, name, described.get(name))


def standardise(accelerator: Any, model: nn.Module, objective: Any, train: Loader) -> list[str]:
    """Gives a regression its standardised targets, if the model's last layer can hold mean and deviation.

    Returns what the history has to say about it.
    """
    notes = [*getattr(objective, "notes", ())]
    if not getattr(objective, "standardizes", False):
        return notes
    if accelerator.distributed_type.value in SHARING:
        return [*notes, "the targets were not standardised: the model's tensors are shared out among processes"]
    images, targets = sample_of(train, lambda batch: objective.images_and_targets(batch, model))
    levels = 1 if objective.quantiles is None else len(objective.quantiles)
    mean, deviation = (part.repeat_interleave(levels) for part in (objective.mean, objective.deviation))
    wide = targets.double().repeat_interleave(levels, dim=1)
    found = find_standardisation(model, mean, deviation, images.to(accelerator.device), wide)
    if accelerator.num_processes > 1:
        found = _of_first_rank(objective, found)
    if isinstance(found, str):
        return [*notes, f"the targets were not standardised: {found}"]
    objective.scale = found
    return [*notes, "train_loss is of targets with mean 0 and deviation 1, all else of targets in their own units"]


def _of_first_rank(objective: Any, found: Any) -> Any:
    """Returns the standardisation with the numbers of rank 0: ranks with data of their own would train on different targets."""
    from accelerate.utils import broadcast_object_list

    own = found if isinstance(found, str) else (found.mean, found.deviation, found.in_units)
    (shared, mean, deviation) = broadcast_object_list([own, objective.mean, objective.deviation])
    objective.mean, objective.deviation = mean, deviation
    if isinstance(found, str) or isinstance(shared, str):
        return found if isinstance(found, str) else shared
    found.mean, found.deviation, found.in_units = shared
    return found
