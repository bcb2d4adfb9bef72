"""Models whose frozen weights are stored in 16 bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import petl
from tests.support.zoo import make

FAMILIES = ["vit", "resnet", "efficientnet", "convnext", "swinv2"]


def narrow(name: str, methods: Any = "lora", dtype: Any = torch.bfloat16, **options: Any) -> nn.Module:
    """The zoo's model, wrapped with a narrow base."""
    return petl.wrap(make(name), methods, num_classes=7, base_dtype=dtype, **options)


def low(model: nn.Module) -> list[str]:
    return sorted(key for key, p in model.named_parameters() if p.dtype != torch.float32)
