"""A loss of the user's own with the targets, the checks and the metrics of another objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from petl.objectives.own_loss import CalledLoss, OwnLoss
from petl.objectives.protocol import Aux, LossOptions, Objective, Setting, Task


class MeasuredTask(Task):
    """The task of ``OwnLoss(loss, measure=...)``: what is measured, and what the delta says, are those of ``measure``."""

    def __init__(self, own: OwnLoss, measure: Task) -> None:
        values = {name: getattr(measure, name) for name in ("task", "metrics", "monitor", "label_per_output")}
        for name, value in {"own": own, "measure": measure, "name": own.name, **values}.items():
            object.__setattr__(self, name, value)  # a Task is frozen

    def create(self, setting: Setting) -> Objective:
        own: OwnLoss = vars(self)["own"]
        return MeasuredLoss(vars(self)["measure"].create(setting), CalledLoss(own, setting))

    def refuse_losses(self, losses: LossOptions, aux: Aux) -> None:
        vars(self)["own"].refuse_losses(losses, aux)

    def images_needed(self, aux: Aux) -> str:
        return vars(self)["own"].images_needed(aux)

    def output_names(self, names: list[str] | None, outputs: int) -> list[str] | None:
        return vars(self)["measure"].output_names(names, outputs)


class MeasuredLoss:
    """An objective in all but its loss, which is another's, on targets and outputs as they are."""

    standardizes = False

    def __init__(self, measure: Objective, called: CalledLoss) -> None:
        self.measure, self.called = measure, called

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["measure"], name)

    def prepare(self, train: Any, device: Any) -> None:
        self.measure.prepare(train, device)
        self.called.prepare(train, device)

    def loss(self, net: Callable[[Tensor], Any], images: Tensor, targets: Tensor, batch: Any = None) -> Tensor:
        return self.called.loss(net, images, targets, batch)
