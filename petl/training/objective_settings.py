"""Those keyword arguments of `fit` that say what the targets mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from petl.objectives.aux_outputs import aux_weight
from petl.objectives.choice import TASKS_BY_NAME, task_for
from petl.objectives.classification import Classification
from petl.objectives.protocol import LossOptions, Task


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """What the targets mean, and which outputs of the model are trained on."""

    objective: Any
    aux: str | float

    def __post_init__(self) -> None:
        aux_weight(self.aux)
        task_for(self.objective)

    @property
    def needs_images(self) -> str:
        """Returns which option needs the whole model in every step; "" where none does."""
        return (task_for(self.objective) or Classification()).images_needed(self.aux)

    def refuse_others(self, losses: LossOptions, monitor: str | None, recorded: str | None) -> None:
        """Raises a PetlError for options that mean nothing for this objective, and a monitor that it doesn't measure.

        Where only the data can tell the objective, it may be any: `refuse_for` looks again.
        """
        task = task_for(self.objective, recorded)
        if task is not None:
            return self.refuse_for(task, losses, monitor)
        known = {name for kind in TASKS_BY_NAME.values() for name in kind.metrics}
        if monitor not in known:
            Classification().checked_monitor(monitor)

    def refuse_for(self, task: Task, losses: LossOptions, monitor: str | None) -> None:
        """Raises a PetlError for options that mean nothing for a task, and a monitor that it doesn't measure."""
        task.refuse_losses(losses, self.aux)
        task.checked_monitor(monitor)
