"""The values of grafted parameters: the module's own value, the adapted value, and the property that returns it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from petl.graft.adapted_weight import as_adapted_weight
from petl.graft.classes import RuntimeClass
from petl.graft.kinds import WeightGraft, grafts
from petl.graft.sharded import fsdp_asks


def input_dtype(model: nn.Module) -> torch.dtype:
    """Returns the dtype that the model expects of its images: that of its first floating-point parameter, with its grafts."""
    for module in model.modules():
        for param, value in module._parameters.items():
            if value is not None and value.is_floating_point():
                return _new_dtype(module, param) or value.dtype
    return torch.get_default_dtype()


def _new_dtype(module: nn.Module, param: str) -> torch.dtype | None:
    """Returns the type of the parameter with its grafts; None where none of them changes it."""
    own = [graft for _, graft in grafts(module) if isinstance(graft, WeightGraft) and graft.param == param]
    return next((graft.dtype for graft in own if graft.dtype is not None), None)


def adapted_property(param: str) -> property:
    """Makes a property that returns ``param``'s value after all of its grafts."""

    def get(self: nn.Module) -> Tensor:
        if fsdp_asks():
            return own_value(self, param)
        return as_adapted_weight(adapted_value(self, param), self, param)

    def put(self: nn.Module, value: Any) -> None:
        """For code that keeps a tensor in a parameter's place: torch's pruning before each forward, FSDP1."""
        vars(self)[param] = value

    def drop(self: nn.Module) -> None:
        if param not in vars(self):
            raise AttributeError(param)
        del vars(self)[param]

    return property(get, put, drop)


def adapted_value(module: nn.Module, param: str) -> Tensor:
    """Computes the value after the grafts. Nothing is cached: to prove that no source changed costs as much as the value."""
    value = own_value(module, param)
    for graft in module._modules.values():
        if isinstance(graft, WeightGraft) and graft.param == param:
            value = graft(value, module)
    return value


def own_value(module: nn.Module, param: str) -> Tensor:
    """Returns the value below the grafts: the own parameter, what a hook computed (pruning), or what parametrize computes."""
    if param in module._parameters:
        return cast(Tensor, module._parameters[param])
    if param in vars(module):
        return vars(module)[param]
    return getattr(super(RuntimeClass, cast(Any, module)), param)
