"""Who else watches a forward: compilers and tracers, torch.func, saved-tensor hooks, forward and backward hooks.

The fast paths run only where autograd alone records the layer; other observers see the plain layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves


def is_recorded(*args: Any) -> bool:
    """Returns whether autograd, and only autograd, records a module's forward with these arguments.

    It is false under tracing, exporting, torch.fx (which passes proxies), torch.func and forward-mode derivatives.
    """
    if not torch.is_grad_enabled() or forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        return False
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        return False
    return isinstance(args[0], Tensor) or any(isinstance(leaf, Tensor) for leaf in tree_leaves(args))


def can_hook_saved_tensors() -> bool:
    """Returns whether petl may set saved-tensor hooks: not under compilers, torch.func, or other code's saved-tensor hooks."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return saved_tensor_hooks() is None


def saved_tensor_hooks() -> Any:
    """Returns the pair of saved-tensor hooks that autograd calls now, or None."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True)  # type: ignore[attr-defined]  # no public name


def has_hooks_inside(block: nn.Module) -> bool:
    """Returns whether hooks see the inputs, outputs or gradients of modules inside the block."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    has_own = any(getattr(part, kind) for part in block.modules() if part is not block for kind in kinds)
    return has_own or bool(torch.nn.modules.module._has_any_global_hook())
