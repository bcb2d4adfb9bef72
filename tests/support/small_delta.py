"""A small wrapped model."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

import petl

NAME = "test_resnet"


def small(classes: int = 3, methods: Any = "bias") -> nn.Module:
    torch.manual_seed(0)
    return petl.wrap(timm.create_model(NAME, num_classes=classes), methods)
