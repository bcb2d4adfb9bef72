"""Where a convolution may defer its output: inside a module in which the norm after it runs too, and where no hook looks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from petl.graft.kinds import PAIRED_NORM, FastPath
from petl.memory.deferred_conv import DeferredOutput, computed
from petl.memory.observers import is_recorded, saved_tensor_hooks

_OPEN = threading.local()


class PairedNorm(NamedTuple):
    """The norm that alone takes a convolution's output, as the survey saw it, and the module inside which both run."""

    scope: nn.Module
    norm: nn.Module


class DeferralScope(FastPath):
    """A module inside which convolutions may defer their outputs; what the module itself returns is computed."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        plain = super().forward  # type: ignore[misc]  # the base class's forward comes next in the order
        if torch.compiler.is_compiling() or not is_recorded(*args, kwargs):
            return plain(*args, **kwargs)
        with _opened_scope(cast(nn.Module, self)):
            out = plain(*args, **kwargs)
        is_deferred = any(isinstance(leaf, DeferredOutput) for leaf in tree_leaves(out))
        return tree_map(computed, out) if is_deferred else out


def norm_to_defer_for(conv: nn.Module) -> nn.Module | None:
    """Returns the norm that is expected to take this convolution's output, or None where it must be computed at once."""
    pair: PairedNorm | None = getattr(conv, PAIRED_NORM, None)
    if pair is None or not conv.training or torch.compiler.is_compiling():
        return None
    if torch._C._are_functorch_transforms_active() or _has_hooks_between(conv, pair.norm):
        return None
    here = (pair.scope, saved_tensor_hooks())  # inside a checkpoint, these hooks differ from those of the scope
    return pair.norm if any(scope == here for scope in _open_scopes()) else None


def _has_hooks_between(conv: nn.Module, norm: nn.Module) -> bool:
    """Returns whether hooks see what the convolution returns or what the norm takes."""
    hooks = conv._forward_hooks or conv._backward_hooks or conv._backward_pre_hooks or norm._forward_pre_hooks
    return bool(hooks) or bool(torch.nn.modules.module._has_any_global_hook())


@contextlib.contextmanager
def _opened_scope(module: nn.Module) -> Iterator[None]:
    scopes = _open_scopes()
    scopes.append((module, saved_tensor_hooks()))
    try:
        yield
    finally:
        scopes.pop()


def _open_scopes() -> list[tuple[nn.Module, Any]]:
    """Returns this thread's open scopes: each module, with the saved-tensor hooks that were on when its forward began."""
    if not hasattr(_OPEN, "scopes"):
        _OPEN.scopes = []
    return cast("list[tuple[nn.Module, Any]]", _OPEN.scopes)
