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
    """The floating-point type of the model's first parameter, as the model's own code sees it: that of its images."""
    for module in model.modules():
        for param, value in module._parameters.items():
            if value is not None and value.is_floating_point():
                return _new_dtype(module, param) or value.dtype
    return torch.get_default_dtype()


def _new_dtype(module: nn.Module, param: str) -> torch.dtype | None:
    """The type that a graft gives the parameter, where one changes it."""
    found = [graft for _, graft in grafts(module) if isinstance(graft, WeightGraft) and graft.param == param]
    return next((graft.dtype for graft in found if graft.dtype is not None), None)


def adapted_property(param: str) -> property:
    """A property that answers with ``param``'s value after all of its grafts."""

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
    """The value as it is now. Nothing is remembered: a proof that no source was written to costs as much as the value."""
    value = own_value(module, param)
    for graft in module._modules.values():
        if isinstance(graft, WeightGraft) and graft.param == param:
            value = graft(value, module)
    return value


def own_value(module: nn.Module, param: str) -> Tensor:
    """The module's own parameter, what a hook computed (pruning), or what its class computes (``torch.nn.utils.parametrize``)."""
    if param in module._parameters:
        return cast(Tensor, module._parameters[param])
    if param in vars(module):
        return vars(module)[param]
    return getattr(super(RuntimeClass, cast(Any, module)), param)
