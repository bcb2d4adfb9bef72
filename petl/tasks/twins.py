"""Copies a model so that the copy has the original's tensors, or tensors of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

Memo = dict[int, Any]


def with_same_memory(model: nn.Module) -> nn.Module:
    """Returns a copy in evaluation mode whose tensors are new objects on the memory of the model's.

    Flags (``requires_grad``), gradients and modes of the two are apart; a write to one's values is one to the other's, and torch
    counts it in both. Hooks are called by both.
    """

    def alias(tensor: Tensor) -> Tensor:
        plain = tensor.detach()
        return nn.Parameter(plain, requires_grad=False) if isinstance(tensor, nn.Parameter) else plain

    return _copied(model, alias)[0].eval()


def with_same_tensors(model: nn.Module) -> nn.Module:
    """Returns a copy of the modules whose tensors are the model's own objects."""
    return _copied(model, lambda tensor: tensor)[0]


def with_own_tensors(model: nn.Module) -> tuple[nn.Module, Memo]:
    """Returns a copy with tensors of its own, and a table from the ``id`` of each module and tensor to its copy.

    The table is valid while both live.
    """

    def duplicate(tensor: Tensor) -> Tensor:
        own = tensor.detach().clone(memory_format=torch.preserve_format)
        return nn.Parameter(own, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else own

    return _copied(model, duplicate)


def _copied(model: nn.Module, tensor_for: Callable[[Tensor], Tensor]) -> tuple[nn.Module, Memo]:
    """Copies modules and plain attributes; tensors become what ``tensor_for`` returns, the same one wherever they are."""
    memo: Memo = {}
    for module in model.modules():
        plain = {key: value for key, value in vars(module).items() if key != "_modules"}
        memo |= {id(leaf): tensor_for(leaf) for leaf in tree_leaves(plain) if isinstance(leaf, Tensor)}
        memo |= {id(value): value for value in _shared_values(module)}
    return cast(nn.Module, copy.deepcopy(model, memo)), memo


def _shared_values(module: nn.Module) -> Iterator[Any]:
    """Yields what the copy has in common with the original: timm's configuration, and hooks that aren't modules' methods."""
    for key, value in vars(module).items():
        if key in ("pretrained_cfg", "default_cfg"):
            yield value
        elif key.endswith("_hooks") and isinstance(value, dict):
            for hook in value.values():
                owner = getattr(hook, "__self__", None)
                if not isinstance(owner, nn.Module) and not isinstance(hook, nn.Module):
                    yield hook if owner is None else owner
