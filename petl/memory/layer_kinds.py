"""The kinds of layers that have a fast path."""

from __future__ import annotations

from typing import Any, cast

from timm.layers import BatchNormAct2d, Conv2dSame, Mlp, activations
from torch import nn

from petl.graft.graft import base_class
from petl.sites.sites import has_statistics, layer_roles

ACTIVATIONS = (
    *(nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish),
    *(activations.Swish, activations.Mish, activations.HardSwish),
    *(activations.GELU, activations.GELUTanh, activations.QuickGELU),
)


def is_plain_conv(module: nn.Module) -> bool:
    return base_class(module) in (nn.Conv2d, Conv2dSame)


def is_plain_norm(module: nn.Module) -> bool:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, BatchNormAct2d)
    return base_class(module) in kinds and has_statistics(module)


def is_plain_mlp(module: nn.Module) -> bool:
    """timm's two linear layers with an activation between them; its variant with 1x1 convolutions isn't one."""
    block = cast(Any, module)
    return base_class(module) is Mlp and all(base_class(fc) is nn.Linear for fc in (block.fc1, block.fc2))


def is_recomputable(module: nn.Module) -> bool:
    """Norms without statistics, and activations that are a function of their input alone."""
    norm = "norm" in layer_roles(module) and not has_statistics(module)
    return base_class(module) in ACTIVATIONS or norm
