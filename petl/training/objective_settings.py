"""Those keyword arguments of `fit` that say what the targets mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from petl.objectives.aux_outputs import aux_weight
from petl.objectives.choice import task_for
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
        """Raises a PetlError for options that mean nothing for this objective, and a monitor that it doesn't measure."""
        task: Task = task_for(self.objective, recorded) or Classification()
        task.refuse_losses(losses, self.aux)
        task.checked_monitor(monitor)
