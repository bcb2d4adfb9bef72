"""Chooses the fast path of a layer."""

from __future__ import annotations

from torch import nn

from petl.graft.graft import base_class, give, is_still
from petl.memory.base_dtype import is_stored_low
from petl.memory.fused_layers import FrozenNorm, FusedConv, FusedLinear
from petl.memory.layer_kinds import is_plain_conv, is_plain_mlp, is_plain_norm, is_recomputable
from petl.memory.mlp import ChunkedMlp
from petl.memory.recomputed_layers import IndexMaxPool, MaskedReLU, Recomputed, SharedReLU
from petl.memory.weight_changes import low_rank_change


def fast_path_for(module: nn.Module, *, lean: bool, kept: bool) -> None:
    """The way for this kind of layer, where there is one; ``kept``: somebody keeps what it returns, as ReLU does."""
    if base_class(module) is nn.Linear and (low_rank_change(module) is not None or is_stored_low(module)):
        give(module, FusedLinear)
    elif is_plain_conv(module):
        give(module, FusedConv)
    elif is_plain_norm(module) and is_still(module):
        give(module, FrozenNorm)
    elif lean and base_class(module) in (nn.ReLU, nn.ReLU6):
        give(module, SharedReLU if kept else MaskedReLU)
    elif lean and base_class(module) is nn.MaxPool2d:
        give(module, IndexMaxPool)
    elif lean and is_plain_mlp(module):
        give(module, ChunkedMlp)
    elif lean and is_recomputable(module):
        give(module, Recomputed)
