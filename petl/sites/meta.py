"""Copies of models and images on the meta device: shapes without values."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from petl.graft.values import input_dtype


def live_outputs(model: nn.Module, names: Collection[str], image: tuple[int, int, int]) -> dict[str, list[bool]]:
    """Returns, for each of these modules, which of the tensors that it returns have any influence on the model's output.

    A shapes-only forward and backward: a tensor counts where a gradient comes back to it.
    """
    clone = on_meta(model)
    for parameter in clone.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    live: dict[str, list[bool]] = {}
    for name, module in clone.named_modules():
        if name in names:
            module.register_forward_hook(_marking(live.setdefault(name, [])))
    with torch.device("meta"):
        leaves = tree_leaves(clone(blank_images(clone, image)))
        torch.autograd.backward([t.sum() for t in leaves if isinstance(t, Tensor) and t.requires_grad])
    return live


def _marking(marks: list[bool]) -> Callable[..., None]:
    """Makes a forward hook that returns a view of each tensor in the output, and marks the tensor when a gradient comes back."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        leaves, tree = tree_flatten(output)
        numbers = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        marks[:] = marks or [False] * len(numbers)
        for number, i in enumerate(numbers):
            leaves[i] = leaves[i].view_as(leaves[i])  # a view, as a block may return its own input
            if leaves[i].requires_grad:
                leaves[i].register_hook(lambda grad, number=number: marks.__setitem__(number, True))
        return tree_unflatten(leaves, tree)

    return hook


def pretrained_cfg(model: nn.Module) -> dict[str, Any]:
    """Returns timm's pretrained config; an empty dict for other models."""
    return getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}


def on_meta(model: nn.Module) -> nn.Module:
    """Copies the model in eval mode, without hooks, with a meta tensor of the same shape for every tensor."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        memo |= {
            id(v): OrderedDict() for key, v in vars(module).items() if key.endswith("_hooks") and isinstance(v, dict)
        }
        for tensor in tree_leaves({key: value for key, value in vars(module).items() if key != "_modules"}):
            if isinstance(tensor, Tensor):  # also in a dict of cached values, as levit keeps one
                memo[id(tensor)] = _meta(tensor)
    clone = copy.deepcopy(model, memo)
    if callable(getattr(clone, "set_grad_checkpointing", None)):
        clone.set_grad_checkpointing(False)  # type: ignore[operator]  # timm's contract, checked above
    return clone.eval()


def _meta(tensor: Tensor) -> Tensor:
    shape = tensor.detach().to("meta")
    return nn.Parameter(shape, requires_grad=False) if isinstance(tensor, nn.Parameter) else shape


def blank_images(model: nn.Module, image: tuple[int, int, int]) -> Tensor:
    """Returns two images without values for a model on the meta device: [2, channels, height, width]."""
    return torch.empty(2, *image, device="meta", dtype=input_dtype(model))
