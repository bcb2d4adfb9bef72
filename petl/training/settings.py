"""The keyword arguments of `fit`, in five parts, each of which refuses what it can't be."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import nn

from petl.errors import StateError
from petl.training.checkpoints import refuse_checkpoint_folder
from petl.training.feature_settings import FeatureSettings
from petl.training.loop_settings import LoopSettings
from petl.training.loss_settings import LossSettings
from petl.training.objective_settings import ObjectiveSettings
from petl.training.optimizer_settings import WEIGHT_DECAY, OptimizerSettings
from petl.training.rehearsal import refuse_delta_path
from petl.training.run_settings import RunSettings
from petl.training.stage_plan import for_several_ranks, refuse_stages
from petl.wrapping.lookup import bare, record

Part = TypeVar("Part")
# settings that only a training by gradient has, with the values that mean that nobody asked for one
WITHOUT_GRADIENT: dict[str, Any] = {
    **dict.fromkeys(
        (
            "epochs",
            "minutes",
            "lr",
            "layer_decay",
            "unfreeze",
            "schedule",
            "scheduler",
            "cycles",
            "clip",
            "ema",
            "warmup_epochs",
        )
    ),
    **dict.fromkeys(("min_lr", "label_smoothing", "mixup", "cutmix"), 0.0),
    "optimizer": "adamw",
    "weight_decay": WEIGHT_DECAY,
    "accumulate": 1,
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keyword arguments of ``fit``, and when it was called.

    ``given`` names those that only a training by gradient has, and that the user passed.
    """

    optim: OptimizerSettings
    loss: LossSettings
    objective: ObjectiveSettings
    features: FeatureSettings
    run: RunSettings
    loop: LoopSettings
    given: tuple[str, ...] = ()
    started: float = field(default_factory=lambda: time.perf_counter())  # what ``minutes`` counts from

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Settings:
        """Returns the settings for the arguments of ``fit`` by name; each part takes those that are its fields.

        Raises:
            PetlError: a setting that can't be.
        """
        given = [name for name, value in WITHOUT_GRADIENT.items() if arguments[name] != value]
        given += ["views"] if arguments["views"] not in (None, 1) else []
        loss, objective = _part(LossSettings, arguments), _part(ObjectiveSettings, arguments)
        images = {"mixes": loss.mixes, "needs_images": objective.needs_images}
        return cls(
            given=tuple(given),
            optim=_part(OptimizerSettings, arguments),
            loss=loss,
            objective=objective,
            features=_part(FeatureSettings, {**arguments, **images}),
            run=_part(RunSettings, arguments),
            loop=_part(LoopSettings, arguments),
        )

    def refuse_impossible(self, val: Any, model: nn.Module) -> None:
        """Raises a PetlError for what can be known to fail before any data is read."""
        self.run.refuse_unmeasured(val)
        wrapped = record(model)
        self.objective.refuse_others(self.loss, self.run.monitor, wrapped.task if wrapped else None)
        if not any(p.requires_grad for p in model.parameters()):
            raise StateError(f"no parameter of this {type(bare(model)).__name__} trains; call petl.wrap first")
        if self.optim.unfreeze is not None:
            refuse_stages(model, self)
        if self.run.out is not None:
            refuse_delta_path(self.run.out, model)
        if self.run.checkpoint is not None:
            refuse_checkpoint_folder(self.run.checkpoint)

    @property
    def accelerate_options(self) -> dict[str, Any]:
        """Returns the arguments of accelerate's Accelerator that follow from these."""
        return {**self.loop.accelerate_options, **({} if self.optim.unfreeze is None else for_several_ranks())}

    def keywords(self) -> dict[str, Any]:
        """Returns all settings under the names of ``fit``'s keyword arguments."""
        parts = (self.optim, self.loss, self.objective, self.features, self.run, self.loop)
        values = {field.name: getattr(part, field.name) for part in parts for field in dataclasses.fields(part)}
        del values["mixes"], values["needs_images"]  # they follow from others
        return values


def _part(kind: type[Part], arguments: Mapping[str, Any]) -> Part:
    """Returns one part of the settings, made of those arguments that are its fields."""
    return kind(**{field.name: arguments[field.name] for field in dataclasses.fields(kind)})  # type: ignore[arg-type]
