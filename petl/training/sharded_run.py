"""What is different in a training of a model that FSDP2 has sharded: averages of shards, and what can't be done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from petl.errors import StateError
from petl.training.trained_state import cloned


class ShardAverage:
    """Averaged values of what trains, as timm's ModelEmaV3 has them; that one copies whole models, which FSDP refuses."""

    def __init__(self, tensors: Mapping[str, Tensor], timm_average: Any):
        self.tensors, self.values, self.timm_average = tensors, cloned(tensors), timm_average

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves the averages towards the model's values, the more the fewer updates there were."""
        weight = 1.0 - self.timm_average.get_decay(step)
        for name, tensor in self.tensors.items():
            if tensor.is_floating_point():
                self.values[name].lerp_(tensor.detach(), weight)
            else:
                self.values[name].copy_(tensor)

    @property
    def module(self) -> ShardAverage:
        """Returns what has the averages in its ``state_dict``, as ModelEmaV3 names it."""
        return self

    def state_dict(self) -> dict[str, Tensor]:
        return self.values


def refuse_sharded_checkpoints(accelerator: Any, settings: Any) -> None:
    """Raises a StateError for training checkpoints under FSDP2, whose optimizer's state no single file holds."""
    if str(getattr(accelerator.distributed_type, "value", "")) != "FSDP":
        return
    if settings.optim.unfreeze is not None:
        raise StateError("unfreeze= can't be used under FSDP, which shards what trains for good; train under DDP")
    if settings.run.checkpoint is not None or settings.run.resume:
        raise StateError(
            "checkpoint= and resume= can't be used under FSDP; out= keeps the best delta of a sharded training"
        )
