"""What trains of a layer's weight, and how: the questions that the fast paths ask about a layer."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from petl.graft.classes import base_class
from petl.graft.kinds import WeightGraft
from petl.kernels.low_rank import LowRankChange
from petl.memory.base_dtype import Upcast
from petl.memory.layer_kinds import is_plain_conv


def weight_grafts(module: nn.Module) -> list[WeightGraft]:
    """Returns the grafts that change the values of the module's weight; an ``Upcast`` changes only its dtype."""
    grafts = [graft for graft in module._modules.values() if isinstance(graft, WeightGraft)]
    return [graft for graft in grafts if graft.param == "weight" and not isinstance(graft, Upcast)]


def low_rank_change(module: nn.Module) -> LowRankChange | None:
    """Returns the change of the module's weight if it is a single low-rank one, else None."""
    changes = weight_grafts(module)
    return changes[0].low_rank() if len(changes) == 1 else None


def own_weight(layer: nn.Module) -> Tensor:
    """Returns the layer's own weight, without its grafts."""
    return cast(Tensor, layer._parameters["weight"])


def weight_trains(module: nn.Module) -> bool:
    """Returns whether the module's own weight trains, or is computed (pruned), perhaps from tensors that train."""
    weight = module._parameters.get("weight")
    return weight.requires_grad if weight is not None else "weight" in vars(module)


def is_frozen_or_low_rank(layer: nn.Module) -> bool:
    """Returns whether the layer's own weight is frozen, with one low-rank change or none."""
    own = layer._parameters.get("weight")  # torch's pruning and parametrizations take it away
    if own is None or own.requires_grad:
        return False
    return low_rank_change(layer) is not None or not weight_grafts(layer)


def keeps_input(module: nn.Module) -> bool:
    """Returns whether a linear layer or convolution keeps its input for the backward."""
    if base_class(module) is not nn.Linear and not is_plain_conv(module):
        return False
    change = low_rank_change(module)
    return weight_trains(module) or (change is not None and change.down.requires_grad)


def scale_trains(norm: nn.Module) -> bool:
    """Returns whether the norm's scale trains, with its grafts."""
    return norm.weight is not None and bool(norm.weight.requires_grad)


def fuses_with_norm(conv: nn.Module, norm: nn.Module) -> bool:
    """Returns whether a kernel computes the convolution and the norm together: not where both the weight and the scale change."""
    is_known = not weight_grafts(conv) or (low_rank_change(conv) is not None and not scale_trains(norm))
    return is_known and not weight_trains(conv)
