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
from petl.training.optimizer_settings import OptimizerSettings
from petl.training.rehearsal import refuse_delta_path
from petl.training.run_settings import RunSettings
from petl.wrapping.lookup import bare

Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keyword arguments of ``fit``, and when it was called."""

    optim: OptimizerSettings
    loss: LossSettings
    features: FeatureSettings
    run: RunSettings
    loop: LoopSettings
    started: float = field(default_factory=lambda: time.perf_counter())  # what ``minutes`` counts from

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Settings:
        """Returns the settings for the arguments of ``fit`` by name; each part takes those that are its fields.

        Raises:
            PetlError: a setting that can't be.
        """
        loss = _part(LossSettings, arguments)
        return cls(
            optim=_part(OptimizerSettings, arguments),
            loss=loss,
            features=_part(FeatureSettings, {**arguments, "mixes": loss.mixes}),
            run=_part(RunSettings, arguments),
            loop=_part(LoopSettings, arguments),
        )

    def refuse_impossible(self, val: Any, model: nn.Module) -> None:
        """Raises a PetlError for what can be known to fail before any data is read."""
        self.run.refuse_unmeasured(val)
        if not any(p.requires_grad for p in model.parameters()):
            raise StateError(f"no parameter of this {type(bare(model)).__name__} trains; call petl.wrap first")
        if self.run.out is not None:
            refuse_delta_path(self.run.out, model)
        if self.run.checkpoint is not None:
            refuse_checkpoint_folder(self.run.checkpoint)

    def keywords(self) -> dict[str, Any]:
        """Returns all settings under the names of ``fit``'s keyword arguments."""
        parts = (self.optim, self.loss, self.features, self.run, self.loop)
        values = {field.name: getattr(part, field.name) for part in parts for field in dataclasses.fields(part)}
        del values["mixes"]  # it follows from mixup and cutmix
        return values


def _part(kind: type[Part], arguments: Mapping[str, Any]) -> Part:
    """Returns one part of the settings, made of those arguments that are its fields."""
    return kind(**{field.name: arguments[field.name] for field in dataclasses.fields(kind)})  # type: ignore[arg-type]
