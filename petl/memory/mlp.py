"""timm's ``Mlp`` block, computed in chunks where the tensor between its two layers is large."""

from __future__ import annotations

from typing import cast

from timm.layers import Mlp
from torch import Tensor, nn

from petl.graft.classes import base_class, fast_paths
from petl.graft.kinds import FastPath, WeightGraft, grafts
from petl.kernels.autocast import compute_dtype
from petl.kernels.chunked_mlp import CHUNK_FROM_BYTES, LowRankLinear, chunked_mlp
from petl.memory.fused_layers import FusedLinear
from petl.memory.layer_kinds import ACTIVATIONS
from petl.memory.observers import has_hooks_inside, is_recorded
from petl.memory.recompute import active_tape, in_compute_dtype
from petl.memory.recomputed_layers import Recomputed
from petl.memory.weight_changes import low_rank_change, own_weight, weight_grafts, weight_trains


class ChunkedMlp(FastPath):
    """timm's multilayer perceptron, in chunks where the hidden tensor is large."""

    def forward(self, x: Tensor) -> Tensor:
        block = cast(Mlp, self)
        if active_tape() is None or not is_recorded(x) or not _runs_in_chunks(block, x):
            return super().forward(x)  # type: ignore[misc]  # the base class's forward comes next in the order
        first, second = _low_rank_linear(block.fc1), _low_rank_linear(block.fc2)
        return chunked_mlp(in_compute_dtype(x), first, second, cast(Recomputed, block.act).out_of_place)


def _runs_in_chunks(block: Mlp, x: Tensor) -> bool:
    """Returns whether the hidden tensor is large, nothing trains but the layers' changes and biases, and no hook looks inside."""
    size = x.shape[:-1].numel() * cast(nn.Linear, block.fc1).out_features * compute_dtype(x).itemsize
    if x.device.type != "cpu" or size < CHUNK_FROM_BYTES:
        return False
    extras = [part for part in (block.drop1, block.norm, block.drop2) if type(part) is not nn.Identity]
    if any(type(part) is not nn.Dropout or (part.training and part.p > 0) for part in extras):
        return False
    plain_activation = (
        base_class(block.act) in ACTIVATIONS and Recomputed in fast_paths(block.act) and not grafts(block.act)
    )
    return plain_activation and _is_low_rank(block.fc1) and _is_low_rank(block.fc2) and not has_hooks_inside(block)


def _is_low_rank(layer: nn.Module) -> bool:
    """Returns whether the layer is ``low_rank_linear.linear`` alone, and keeps its input if anything of its weight trains."""
    has_other_grafts = any(not isinstance(graft, WeightGraft) for _, graft in grafts(layer))
    if FusedLinear not in fast_paths(layer) or has_other_grafts or weight_trains(layer):
        return False
    change = low_rank_change(layer)
    return not weight_grafts(layer) if change is None else change.down.requires_grad


def _low_rank_linear(layer: nn.Module) -> LowRankLinear:
    """Returns the tensors of a linear layer for ``chunked_mlp``."""
    change, bias = low_rank_change(layer), cast("Tensor | None", layer.bias)
    return LowRankLinear(own_weight(layer), bias) if change is None else LowRankLinear(own_weight(layer), bias, *change)
