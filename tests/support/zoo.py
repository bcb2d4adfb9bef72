"""A zoo of tiny models of every kind, brought to life so that every layer passes a gradient."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.support.lively import calibrate, enliven

CLASSES = 11
_PLAIN = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
_WINDOWS = {"img_size": 32, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (1, 2)}
_LEVIT = {"embed_dim": (16, 32, 48), "num_heads": (1, 2, 3), "depth": (1, 1, 1), "key_dim": 8}
_CROSS = {"img_size": 120, "embed_dim": (16, 32), "depth": ((1, 1, 0),), "num_heads": (2, 2)}
_COAT = {"img_size": 64, "embed_dims": (32,) * 4, "serial_depths": (1,) * 4, "parallel_depth": 1, "num_heads": 8}
_TNT = {"embed_dim": 32, "inner_dim": 8, "depth": 2, "num_heads_outer": 2, "num_heads_inner": 2}
_RESNEXT = {"layers": (1,) * 4, "channels": (16, 32, 48, 64), "cardinality": 4, "base_width": 16, "output_stride": 8}
_LSTM = {
    "layers": (1, 1),
    "patch_sizes": (7, 2),
    "embed_dims": (32, 32),
    "hidden_sizes": (8, 8),
    "mlp_ratios": (3.0, 3.0),
}

# name -> (timm name, image size, further arguments)
ZOO: dict[str, tuple[str, int, dict[str, Any]]] = {
    "vit": ("test_vit", 64, {"img_size": 64, "depth": 3}),
    "vit2": ("test_vit2", 64, {"img_size": 64, "depth": 2}),
    "vit4": ("test_vit4", 64, {"img_size": 64, "depth": 2}),
    "vit_relpos": ("test_vit_relpos", 64, {"img_size": 64, "depth": 2}),
    "resnet": ("test_resnet", 64, {}),
    "efficientnet": ("test_efficientnet", 64, {}),
    "efficientnet_gn": ("test_efficientnet_gn", 64, {}),
    "efficientnet_evos": ("test_efficientnet_evos", 64, {}),
    "convnext": ("test_convnext", 64, {}),
    "convnext2": ("test_convnext2", 64, {}),
    "nfnet": ("test_nfnet", 64, {}),
    "byobnet": ("test_byobnet", 64, {}),
    "mambaout": ("test_mambaout", 64, {}),
    "maxvit": ("test_maxvit", 64, {"img_size": 64}),
    "coatnet": ("test_coatnet", 64, {"img_size": 64}),
    # weights that are read without calling their layer
    "beit": ("beit_base_patch16_224", 32, _PLAIN),
    "eva": ("eva02_base_patch16_clip_224", 32, _PLAIN),
    "eva_fused": ("eva_giant_patch14_224", 32, _PLAIN),
    "swinv2": ("swinv2_tiny_window8_256", 32, _WINDOWS),
    # channels-last maps; two classifiers; lists of tensors and several stems; modules that are called more than once
    "swin": ("swin_tiny_patch4_window7_224", 32, _WINDOWS),
    "deit_distilled": ("deit_tiny_distilled_patch16_224", 32, _PLAIN),
    "levit": ("levit_128s", 224, _LEVIT),
    "crossvit": ("crossvit_tiny_240", 120, _CROSS),
    "tnt": ("tnt_s_legacy_patch16_224", 224, _TNT),
    "repvgg": ("repvgg_a0", 64, {}),
    "coat": ("coat_tiny", 64, _COAT),
    # SAME padding; grouped and dilated convolutions; concatenated features
    "efficientnet_same": ("test_efficientnet", 64, {"pad_type": "same"}),
    "resnext": ("resnext50_32x4d", 64, _RESNEXT),
    "densenet": ("densenet121", 64, {"block_config": (2, 2), "growth_rate": 8}),
    # weights that are no layer's `weight` of the usual layout: LSTMs, experts, transposed convolutions
    "sequencer": ("sequencer2d_s", 64, _LSTM),
    "condconv": ("efficientnet_cc_b0_4e", 96, {}),
    "lowformer": ("lowformer_b0", 64, {"width_list": [16] * 5, "depth_list": [0, 1, 1, 1, 1], "head_widths": (16, 16)}),
}


def make(name: str) -> nn.Module:
    """A fresh copy of the zoo's lively model, in eval mode."""
    return copy.deepcopy(_built(name))


def images(name: str, channels: int = 3, *, batch: int = 3) -> Tensor:
    """[batch, channels, size, size] random images for that model, always the same."""
    size = ZOO[name][1]
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


@functools.cache
def _built(name: str) -> nn.Module:
    architecture, size, arguments = ZOO[name]
    if not timm.is_model(architecture):
        pytest.skip(f"{architecture} is not in timm {timm.__version__}")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return lively(timm.create_model(architecture, num_classes=CLASSES, **arguments), size)


def lively(model: nn.Module, size: int = 64, *, channels: int = 3) -> nn.Module:
    """Random values for every tensor that is all the same, then the BatchNorm statistics of random images.

    An untrained timm model has zero gains, layer scales, skip gains and heads, behind which nothing gets a gradient.
    """
    chance = torch.Generator().manual_seed(0)
    enliven(model, chance)
    with torch.no_grad():
        calibrate(model, torch.randn(8, channels, size, size, generator=chance))
    return model.eval()


def disturb(model: nn.Module, *, seed: int = 0, by: float = 0.1) -> nn.Module:
    """Add noise to all that trains, as if it had been trained, and to the statistics that a method tunes."""
    import petl

    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in petl.trainable(model).values():
            p.add_(torch.randn(p.shape, generator=chance).to(p), alpha=by)
    return model


def output(model: nn.Module, batch: Tensor) -> Tensor:
    """What the model answers in eval mode."""
    model.eval()
    with torch.no_grad():
        return model(batch)


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Of one training step, and of ``x`` if that takes one; dropout draws the same numbers each time."""
    import petl

    torch.manual_seed(0)
    model.zero_grad()
    x.grad = None
    (model(x) ** 2).sum().backward()
    found = {k: p.grad for k, p in petl.trainable(model).items()} | ({"x": x.grad} if x.requires_grad else {})
    return {k: grad.clone() for k, grad in found.items() if grad is not None}
