"""Models of the zoo, adapted by every method and moved by a training step."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import petl
from tests.support.zoo import disturb, images, make

WAYS: dict[str, tuple[Any, str, int]] = {
    "probe": ("probe", "levit", 3),
    "bn": ("bn", "resnet", 3),
    "norm": ("norm", "swinv2", 3),
    "bias": ("bias", "beit", 3),
    "lora": (["bias", petl.LoRA(rank=2, where=("linear", "conv", "depthwise"))], "resnext", 3),
    "slices": (petl.LoRA(rank=2, slices="qv"), "eva_fused", 3),
    "dora": (petl.LoRA(rank=2, dora=True), "nfnet", 3),
    "adapter": (petl.Adapter(bottleneck=2, where="branch"), "swin", 3),
    "partial": ("partial", "coat", 3),
    "full": (petl.Full(stats="adapt"), "efficientnet", 3),
    "seed case": ([petl.Input(in_chans=1), "bn", petl.LoRA(rank=2)], "efficientnet_same", 1),
    "input with a bias": (petl.Input(in_chans=4, bias=True), "crossvit", 4),
}


def trained(name: str, methods: Any, channels: int = 3, **options: Any) -> nn.Module:
    """A zoo model with these methods after a training step, so that statistics have moved too."""
    torch.manual_seed(0)
    model = petl.wrap(make(name), methods, num_classes=5, **options)
    disturb(model).train()
    with torch.no_grad():
        model(images(name, channels))
    return model.eval()
