"""Blocks that keep their input alone and run again in the backward (Chen et al. 2016, arXiv:1604.06174).

torch's checkpoint runs them again. What the last layers of a block return is often only added to its output, and read by
nobody in the second run: these layers keep there what they need for their own gradients, and compute nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from torch.utils.checkpoint import checkpoint

from petl.graft.graft import Way
from petl.memory.block_state import FirstRun
from petl.memory.observers import has_hooks_inside, is_recorded
from petl.memory.skip_plan import SkipPlan


class CheckpointedBlock(Way):
    """A block that keeps its input alone and runs again in the backward."""

    outer = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        plain, block = super().forward, cast(nn.Module, self)  # type: ignore[misc]  # the base class's forward comes next
        if not is_recorded(*args, kwargs) or not block.training or torch._C._are_functorch_transforms_active():
            return plain(*args, **kwargs)
        leaves, tree = tree_flatten((args, kwargs))  # lists may grow before the block runs again
        first = None if torch.compiler.is_compiling() else FirstRun(block, leaves)

        def run(*given: Any) -> Any:
            args, kwargs = tree_unflatten(given, tree)
            with contextlib.nullcontext() if first is None else first.repeated():
                return plain(*args, **kwargs)

        out = self._run(run, leaves)
        if first is not None:
            first.end()
        return out

    def _run(self, run: Callable[..., Any], leaves: list[Any]) -> Any:
        runs = SkipPlan() if _may_skip_results(cast(nn.Module, self)) else None
        if runs is None:
            return checkpoint(run, *leaves, use_reentrant=False)
        out = checkpoint(run, *leaves, use_reentrant=False, context_fn=runs.contexts)
        runs.end(tree_leaves(out), leaves)
        return out


def _may_skip_results(block: nn.Module) -> bool:
    """Whether nobody but the block itself sees what its layers return, in a run that autograd alone records."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return not has_hooks_inside(block)
