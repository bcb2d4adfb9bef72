"""Tries each layer of peft on one input before and after merging."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn


class MergeTrial:
    """What a tuner layer answers to one random input before it is merged, and how far its tuner takes that from the base."""

    def __init__(self, layer: Any):
        self.x = _random_input(layer.get_base_layer())
        self.before = self._answer(layer)
        base = self._answer(layer.get_base_layer())
        self.effect = 0.0 if self.before is None or base is None else float((self.before - base).abs().max())

    def differs(self, merged: Any) -> bool:
        """Whether the merged layer answers something else, by more than rounding."""
        now = self._answer(merged)
        if self.before is None or now is None or self.before.numel() == 0:
            return False
        rounding = max(4 * torch.finfo(now.dtype).eps, 1e-5) * float(self.before.abs().max())
        return not float((now - self.before).abs().max()) <= 0.02 * self.effect + rounding

    def _answer(self, layer: Any) -> Tensor | None:
        """In evaluation mode; None where the layer takes something else."""
        modes = [(module, module.training) for module in layer.modules()]
        try:
            with torch.no_grad(), contextlib.suppress(TypeError, ValueError, RuntimeError):
                return None if self.x is None else layer.eval()(self.x)
        finally:
            for module, mode in modes:
                module.training = mode
        return None


def _random_input(layer: nn.Module) -> Tensor | None:
    """A random input for this kind of layer, always the same; None for kinds that aren't known."""
    own = next(layer.parameters(), None)
    if own is None or own.is_meta:
        return None
    if isinstance(layer, nn.Embedding):
        return torch.arange(layer.num_embeddings, device=own.device)[:64]
    if isinstance(layer, nn.Linear):
        shape: tuple[int, ...] = (8, layer.in_features)
    elif isinstance(layer, nn.LayerNorm):
        shape = (8, *layer.normalized_shape)
    elif isinstance(layer, nn.modules.conv._ConvNd):
        sizes = zip(layer.kernel_size, layer.dilation, layer.stride, strict=True)
        shape = (2, layer.in_channels, *(d * (k - 1) + 1 + 2 * s for k, d, s in sizes))
    else:
        return None
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(own.device, own.dtype)
