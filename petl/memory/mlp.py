"""timm's Mlp block, run in chunks."""

from __future__ import annotations

from typing import cast

from timm.layers import Mlp
from torch import Tensor, nn

from petl.graft.graft import Way, WeightGraft, base_class, grafts, ways
from petl.kernels import autocast
from petl.kernels.chunked_mlp import CHUNK_FROM_BYTES, LowRankLinear, chunked_mlp
from petl.memory import recompute
from petl.memory.fused_layers import FusedLinear
from petl.memory.layer_kinds import ACTIVATIONS
from petl.memory.observers import has_hooks_inside, is_recorded
from petl.memory.recompute import in_compute_dtype
from petl.memory.recomputed_layers import Recomputed
from petl.memory.weight_changes import low_rank_change, own_weight, weight_grafts, weight_trains


class ChunkedMlp(Way):
    """timm's multilayer perceptron, in parts where what lies between its layers is large."""

    def forward(self, x: Tensor) -> Tensor:
        block = cast(Mlp, self)
        if recompute.active_tape() is None or not is_recorded(x) or not _runs_in_chunks(block, x):
            return super().forward(x)  # type: ignore[misc]  # the base class's forward comes next in the order
        return chunked_mlp(
            in_compute_dtype(x),
            _as_low_rank_linear(block.fc1),
            _as_low_rank_linear(block.fc2),
            cast(Recomputed, block.act)._anew,
        )


def _runs_in_chunks(block: Mlp, x: Tensor) -> bool:
    """Whether what lies between the layers is large, and nothing there trains but their changes and biases, or is watched."""
    size = x.shape[:-1].numel() * cast(nn.Linear, block.fc1).out_features * autocast.compute_dtype(x).itemsize
    if x.device.type != "cpu" or size < CHUNK_FROM_BYTES:
        return False
    between = [part for part in (block.drop1, block.norm, block.drop2) if type(part) is not nn.Identity]
    dropped = any(type(part) is not nn.Dropout or (part.training and part.p > 0) for part in between)
    plain = base_class(block.act) in ACTIVATIONS and Recomputed in ways(block.act) and not grafts(block.act)
    return (
        plain and not dropped and all(_is_low_rank(fc) for fc in (block.fc1, block.fc2)) and not has_hooks_inside(block)
    )


def _is_low_rank(layer: nn.Module) -> bool:
    """Whether the layer is ``kernels.linear`` and nothing else, and keeps its input if anything of its weight trains."""
    around = any(not isinstance(graft, WeightGraft) for _, graft in grafts(layer))
    if FusedLinear not in ways(layer) or around or weight_trains(layer):
        return False
    change = low_rank_change(layer)
    return not weight_grafts(layer) if change is None else change.down.requires_grad


def _as_low_rank_linear(layer: nn.Module) -> LowRankLinear:
    """What ``mlp`` reads of a linear layer."""
    change, bias = low_rank_change(layer), cast("Tensor | None", layer.bias)
    return LowRankLinear(own_weight(layer), bias) if change is None else LowRankLinear(own_weight(layer), bias, *change)
