"""Untrained timm models brought to life: zero gains, layer scales, skip gains and heads let no gradient pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def enliven(model: nn.Module, chance: torch.Generator) -> None:
    """Random values for every tensor that is all the same."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.numel() and bool((p == p.flatten()[0]).all()):
                gain = p.numel() == max(p.shape, default=1) and not name.endswith("bias")
                fresh = torch.rand(p.shape, generator=chance) + 0.5 if gain else torch.randn(p.shape, generator=chance)
                p.copy_(fresh if gain else fresh * 0.1)


def calibrate(model: nn.Module, batch: Tensor) -> None:
    """Give every BatchNorm the statistics of these images, averaged over two passes; leaves the model in training mode."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the plain average
    model.train()
    for part in (batch, batch.flip(0)) if norms else ():
        model(part)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
