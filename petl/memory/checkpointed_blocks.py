"""Blocks that keep only their input and run a second time in the backward: activation checkpointing.

torch's checkpoint does it (Chen et al. 2016, arXiv:1604.06174). petl restores the block's state for the second run
(``block_state``), and skips the kernels whose outputs nobody reads there (``skip_plan``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from torch.utils.checkpoint import checkpoint

from petl.graft.kinds import FastPath
from petl.memory.block_state import FirstRun
from petl.memory.observers import has_hooks_inside, is_recorded
from petl.memory.skip_plan import SkipPlan


class CheckpointedBlock(FastPath):
    """A block that keeps only its input and runs a second time in the backward."""

    around_grafts = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        plain, block = super().forward, cast(nn.Module, self)  # type: ignore[misc]  # the base class's forward comes next
        if not is_recorded(*args, kwargs) or not block.training or torch._C._are_functorch_transforms_active():
            return plain(*args, **kwargs)
        leaves, tree = tree_flatten((args, kwargs))  # lists may grow before the block runs again
        first_run = None if torch.compiler.is_compiling() else FirstRun(block, leaves)

        def run(*leaves: Any) -> Any:
            args, kwargs = tree_unflatten(leaves, tree)
            with contextlib.nullcontext() if first_run is None else first_run.repeated():
                return plain(*args, **kwargs)

        out = self._checkpointed(run, leaves)
        if first_run is not None:
            first_run.end()
        return out

    def _checkpointed(self, run: Callable[..., Any], leaves: list[Any]) -> Any:
        if not _may_skip_kernels(cast(nn.Module, self)):
            return checkpoint(run, *leaves, use_reentrant=False)
        plan = SkipPlan()
        out = checkpoint(run, *leaves, use_reentrant=False, context_fn=plan.contexts)
        plan.end_first_run(tree_leaves(out), leaves)
        return out


def _may_skip_kernels(block: nn.Module) -> bool:
    """Returns whether only the block itself and autograd see the outputs of its layers."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return not has_hooks_inside(block)
