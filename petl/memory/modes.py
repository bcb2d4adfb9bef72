"""Gives the modules of an adapted model the fast paths of a memory mode: training steps that compute the same with less.

``memory="fast"`` trains low-rank changes through ``kernels`` and computes a frozen norm together with the convolution before
it, where the forward shows that this is allowed (``deferred_conv``). ``"lean"`` also recomputes the outputs of norms and
activations in the backward (``recompute``), or keeps one bit for each of their numbers. ``"min"`` also runs whole blocks a second
time in the backward (activation checkpointing, Chen et al. 2016, arXiv:1604.06174). Evaluation always runs the plain layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from torch import nn

from petl.graft.graft import add_fast_paths
from petl.graft.kinds import PAIRED_NORM, FastPath
from petl.memory.checkpoint_plan import choose_blocks
from petl.memory.checkpointed_blocks import CheckpointedBlock
from petl.memory.conv_norm_pairs import conv_norm_pairs
from petl.memory.deferral_scope import DeferralScope, PairedNorm
from petl.memory.fast_paths import fast_path_for
from petl.memory.recomputed_layers import RecomputeScope
from petl.memory.weight_changes import keeps_input
from petl.sites.survey import Survey

Memory = Literal["fast", "lean", "min"]
MEMORY_MODES: tuple[Memory, ...] = get_args(Memory)


def apply_memory_mode(survey: Survey, mode: str) -> None:
    """Gives the modules of an adapted model the fast paths of ``memory=mode``; ``survey`` is the model's before its changes."""
    pairs = [*conv_norm_pairs(survey)]
    for conv, norm in pairs:
        vars(conv)[PAIRED_NORM] = norm
    for module, fast_path in [*_choices(survey, [norm for _, norm in pairs], mode)]:
        add_fast_paths(module, fast_path)


def ensure_recompute_scope(model: nn.Module) -> None:
    """Makes the model's forward record what can be recomputed, if it doesn't yet."""
    add_fast_paths(model, RecomputeScope)


def _choices(survey: Survey, paired_norms: list[PairedNorm], mode: str) -> Iterator[tuple[nn.Module, type[FastPath]]]:
    """Yields each module with a fast path for it; a module may come several times. Changes nothing."""
    model, kept = survey.model, _kept_outputs(survey)
    yield from ((norm.scope, DeferralScope) for norm in paired_norms)
    for name, module in model.named_modules():
        fast_path = fast_path_for(module, mode=mode, output_is_kept=name in kept)
        if fast_path is not None:
            yield module, fast_path
    if mode == "min":
        yield from ((model.get_submodule(name), CheckpointedBlock) for name in choose_blocks(survey))
    if mode != "fast":
        yield model, RecomputeScope


def _kept_outputs(survey: Survey) -> set[str]:
    """Returns the names of modules whose output is kept by every layer that receives it."""
    keeping = {name for name, module in survey.model.named_modules() if keeps_input(module)}
    return {
        name
        for name, consumers in survey.consumers.items()
        if consumers and all(consumer & keeping for consumer in consumers)
    }
