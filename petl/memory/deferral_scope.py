"""Where a convolution may defer its output."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from petl.graft.graft import PARTNER, Way
from petl.memory.deferred_conv import DeferredOutput, computed
from petl.memory.observers import is_recorded, saved_tensor_hooks

_SCOPES = threading.local()


class PairedNorm(NamedTuple):
    """Where a convolution's output goes, as the survey saw it: the module inside which both run, and the norm."""

    scope: nn.Module
    norm: nn.Module


def norm_to_defer_for(conv: nn.Module) -> nn.Module | None:
    """The norm that is expected to take this convolution's output, where both run inside a scope that is open now."""
    partner: PairedNorm | None = getattr(conv, PARTNER, None)
    if partner is None or not conv.training or torch.compiler.is_compiling():
        return None
    if torch._C._are_functorch_transforms_active():
        return None
    hooks = conv._forward_hooks or conv._backward_hooks or conv._backward_pre_hooks or partner.norm._forward_pre_hooks
    if hooks or torch.nn.modules.module._has_any_global_hook():  # somebody looks at what lies between them
        return None
    open_now = any(
        frame == (partner.scope, saved_tensor_hooks()) for frame in _open_scopes()
    )  # inside a checkpoint, hooks differ
    return partner.norm if open_now else None


class DeferralScope(Way):
    """A module inside which convolutions may defer their outputs; what it returns is computed."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        plain = super().forward  # type: ignore[misc]  # the base class's forward comes next in the order
        if torch.compiler.is_compiling() or not is_recorded(*args, kwargs):
            return plain(*args, **kwargs)
        with _opened_scope(cast(nn.Module, self)):
            out = plain(*args, **kwargs)
        is_deferred = any(isinstance(leaf, DeferredOutput) for leaf in tree_leaves(out))
        return tree_map(computed, out) if is_deferred else out


@contextlib.contextmanager
def _opened_scope(scope: nn.Module) -> Iterator[None]:
    frames = _open_scopes()
    frames.append((scope, saved_tensor_hooks()))
    try:
        yield
    finally:
        frames.pop()


def _open_scopes() -> list[tuple[nn.Module, Any]]:
    if not hasattr(_SCOPES, "frames"):
        _SCOPES.frames = []
    return cast("list[tuple[nn.Module, Any]]", _SCOPES.frames)
