"""What trains of a layer's weight, and how: questions that the fast paths ask of a layer."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from petl.graft.graft import WeightGraft, base_class
from petl.kernels import low_rank
from petl.memory.base_dtype import Upcast
from petl.memory.layer_kinds import is_plain_conv


def is_frozen_or_low_rank(layer: nn.Module) -> bool:
    """Whether the layer's weight is its own and frozen, with a low-rank change that kernels know, or with none."""
    own = layer._parameters.get("weight")  # torch's pruning and parametrizations take it away
    return (
        own is not None and not own.requires_grad and (low_rank_change(layer) is not None or not weight_grafts(layer))
    )


def own_weight(layer: nn.Module) -> Tensor:
    """The layer's own weight, without what has grown on it."""
    return cast(Tensor, layer._parameters["weight"])


def fuses_with_norm(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether kernels know the two together: not where the norm's scale and the convolution's weight change both."""
    known = not weight_grafts(conv) or (low_rank_change(conv) is not None and not scale_trains(norm))
    return known and not weight_trains(conv)


def keeps_input(module: nn.Module) -> bool:
    """Whether a linear layer or convolution needs its input for the backward."""
    if base_class(module) is not nn.Linear and not is_plain_conv(module):
        return False
    change = low_rank_change(module)
    return weight_trains(module) or (change is not None and change.down.requires_grad)


def weight_grafts(module: nn.Module) -> list[WeightGraft]:
    """What changes the numbers of the module's weight."""
    found = [graft for graft in module._modules.values() if isinstance(graft, WeightGraft) and graft.param == "weight"]
    return [graft for graft in found if not isinstance(graft, Upcast)]


def low_rank_change(module: nn.Module) -> low_rank.LowRankChange | None:
    """The only change of the module's weight, where it is a low-rank one."""
    found = weight_grafts(module)
    return found[0].low_rank() if len(found) == 1 else None


def weight_trains(module: nn.Module) -> bool:
    """Whether the module's own weight trains, whatever has grown on it, or is computed (pruned), perhaps of what trains."""
    weight = module._parameters.get("weight")
    return weight.requires_grad if weight is not None else "weight" in vars(module)


def scale_trains(norm: nn.Module) -> bool:
    """Whether the norm's scale, with whatever has grown on it, trains."""
    return norm.weight is not None and bool(norm.weight.requires_grad)
