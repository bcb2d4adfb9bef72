"""Merges the layers of peft into the base's layers, and tries each on one input before and after."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from petl.errors import StateError, listing


def merge_tuner_layers(model: nn.Module, kind: Any) -> None:
    """Folds every tuner layer into its base layer and puts the base layer back.

    On an error ``petl.merge`` restores the model: peft's own ``unmerge`` restores the base up to rounding only.

    Raises:
        StateError: peft can't merge a layer, or the merged layer computes something else.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)}
    trials = {name: MergeTrial(layer) for name, layer in layers.items()}
    try:
        for layer in layers.values():
            layer.merge(safe_merge=True)  # type: ignore[operator]  # every tuner layer has it
    except Exception as error:  # peft raises whatever its tuner raises
        raise StateError(f"peft can't merge {kind}: {error}; the model is as it was") from error
    wrong = [name for name, layer in layers.items() if trials[name].differs(layer)]
    if wrong:
        raise StateError(
            f"peft merges {kind} on {listing(wrong)} to another function than it trained; the model "
            f"is as it was: use it wrapped, save its delta, or train another tuner or petl's own 'lora'"
        )
    for name, layer in layers.items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer.get_base_layer())


class MergeTrial:
    """The output of a tuner layer for one random input before it is merged, and how far the tuner moves it from the base's."""

    def __init__(self, layer: Any):
        self.x = _random_input(layer.get_base_layer())
        self.before = self._output(layer)
        base = self._output(layer.get_base_layer())
        self.effect = 0.0 if self.before is None or base is None else float((self.before - base).abs().max())

    def differs(self, merged: Any) -> bool:
        """Returns whether the merged layer's output is another, by more than rounding."""
        now = self._output(merged)
        if self.before is None or now is None or self.before.numel() == 0:
            return False
        rounding = max(4 * torch.finfo(now.dtype).eps, 1e-5) * float(self.before.abs().max())
        return not float((now - self.before).abs().max()) <= 0.02 * self.effect + rounding

    def _output(self, layer: Any) -> Tensor | None:
        """Returns the layer's output in evaluation mode; None where the layer takes other inputs."""
        modes = [(module, module.training) for module in layer.modules()]
        try:
            with torch.no_grad(), contextlib.suppress(TypeError, ValueError, RuntimeError):
                return None if self.x is None else layer.eval()(self.x)
        finally:
            for module, mode in modes:
                module.training = mode
        return None


def _random_input(layer: nn.Module) -> Tensor | None:
    """Returns a random input for this kind of layer, always the same; None for unknown kinds."""
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
