"""A loss of the user's own with the targets, the checks and the metrics of another objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from petl.data.loaders import Loader
from petl.data.pairs import Batch
from petl.objectives.measured import TaskMetrics
from petl.objectives.own_loss import CalledLoss, OwnLoss
from petl.objectives.protocol import Aux, LossOptions, Objective, Setting, Task


class MeasuredTask(Task):
    """The task of ``OwnLoss(loss, measure=...)``: what is measured, and what the delta says, are those of ``measure``."""

    def __init__(self, own: OwnLoss, measure: Task) -> None:
        values = {
            name: getattr(measure, name) for name in ("task", "metrics", "monitor", "label_per_output", "numbered")
        }
        for name, value in {"own": own, "measure": measure, "name": own.name, **values}.items():
            object.__setattr__(self, name, value)  # a Task is frozen

    def create(self, setting: Setting) -> Objective:
        own: OwnLoss = vars(self)["own"]
        return MeasuredLoss(vars(self)["measure"].create(setting), CalledLoss(own, setting))

    def refuse_losses(self, losses: LossOptions, aux: Aux) -> None:
        vars(self)["own"].refuse_losses(losses, aux)

    def images_needed(self, aux: Aux) -> str:
        return vars(self)["own"].images_needed(aux)

    def refuse_kind(self, targets: Tensor, dataset: Any) -> None:
        vars(self)["measure"].refuse_kind(targets, dataset)

    def output_names(self, names: list[str] | None, outputs: int) -> list[str] | None:
        return vars(self)["measure"].output_names(names, outputs)


class MeasuredLoss:
    """An objective in all but its loss, which is another's, on targets and outputs as they are."""

    standardizes = False

    def __init__(self, measure: Objective, called: CalledLoss) -> None:
        self.measure, self.called = measure, called
        if hasattr(measure, "answer"):
            self.answer = measure.answer  # type: ignore[attr-defined]  # asked in the line above
        self.described = getattr(measure, "described", dict)

    def refuse_targets(self, loader: Loader, *, training: bool = False) -> None:
        self.measure.refuse_targets(loader, training=training)

    def prepare(self, train: Loader, device: torch.device) -> None:
        self.measure.prepare(train, device)
        self.called.prepare(train, device)

    def images_and_targets(self, batch: Any, model: nn.Module) -> Batch:
        return self.measure.images_and_targets(batch, model)

    def is_read(self, targets: Tensor) -> Tensor:
        return self.measure.is_read(targets)

    def loss(self, net: Callable[[Tensor], Any], images: Tensor, targets: Tensor, batch: Any = None) -> Tensor:
        return self.called.loss(net, images, targets, batch)

    def per_image(self, output: Any, targets: Tensor) -> tuple[Tensor, ...]:
        return self.measure.per_image(output, targets)

    def metrics(self, *columns: Tensor) -> TaskMetrics:
        return self.measure.metrics(*columns)
