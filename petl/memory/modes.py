"""Cheaper training steps with the same numbers: ways to run layers that keep less for the backward.

``memory="fast"`` trains low-rank changes through ``kernels`` and folds frozen norms into the convolution before them, where
the forward shows that it may (``deferred``). ``"lean"`` also recomputes outputs of norms and activations (``remake``).
``"min"`` also runs whole blocks a second time in the backward (activation checkpointing, Chen et al. 2016, arXiv:1604.06174).
Evaluation always runs the plain layers.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from petl.graft.graft import PARTNER, give, ways
from petl.memory.checkpoint_plan import choose_blocks
from petl.memory.checkpointed_blocks import CheckpointedBlock
from petl.memory.conv_norm_pairs import conv_norm_pairs
from petl.memory.deferral_scope import DeferralScope
from petl.memory.fast_paths import fast_path_for
from petl.memory.recomputed_layers import RecomputeScope
from petl.memory.weight_changes import keeps_input
from petl.sites.survey import Survey

Memory = Literal["fast", "lean", "min"]
MEMORY_MODES: tuple[Memory, ...] = get_args(Memory)


def apply_memory_mode(found: Survey, memory: str) -> None:
    """Give the modules of an adapted model these ways to run; ``found`` is the survey of the model before."""
    model = found.model
    for conv, partner in conv_norm_pairs(found):
        vars(conv)[PARTNER] = partner
        give(partner.scope, DeferralScope)
    keeping = {name for name, module in model.named_modules() if keeps_input(module)}
    for name, module in model.named_modules():
        takers = found.takers.get(name, [])
        fast_path_for(module, lean=memory != "fast", kept=bool(takers) and all(taker & keeping for taker in takers))
    if memory == "min":
        for name in choose_blocks(found):
            give(model.get_submodule(name), CheckpointedBlock)
    if memory != "fast":
        ensure_recompute_scope(model)


def ensure_recompute_scope(model: nn.Module) -> None:
    """Let the model note what can be made again during its forward, if it doesn't yet."""
    if RecomputeScope not in ways(model):
        give(model, RecomputeScope)
