"""Who watches a forward: autograd, compilers, torch.func, hooks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves


def has_hooks_inside(block: nn.Module) -> bool:
    """Whether somebody sees what modules inside the block take and return, or their gradients."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    seen = any(getattr(part, kind) for part in block.modules() if part is not block for kind in hooks)
    return seen or bool(torch.nn.modules.module._has_any_global_hook())


def saved_tensor_hooks() -> Any:
    """The pair of saved-tensor hooks that autograd asks now, or None."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True)  # type: ignore[attr-defined]  # no public name


def can_hook_saved_tensors() -> bool:
    """Whether saved tensors can be looked up: not under compilers, torch.func, or saved-tensor hooks of somebody else."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return saved_tensor_hooks() is None


def is_recorded(*given: Any) -> bool:
    """Whether autograd records what becomes of a module's arguments.

    Tracing, exporting, torch.fx (which hands in proxies), torch.func and forward-mode derivatives see the plain layers.
    """
    if not torch.is_grad_enabled() or forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return False
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        return False
    return isinstance(given[0], Tensor) or any(isinstance(leaf, Tensor) for leaf in tree_leaves(given))
