"""The kinds of layers that have a fast path, by their exact class: a subclass with a forward of its own stays plain."""

from __future__ import annotations

from typing import Any, cast

from timm.layers import BatchNormAct2d, Conv2dSame, Mlp, activations
from torch import nn

from petl.graft.classes import base_class
from petl.sites.layers import has_running_statistics, layer_roles

ACTIVATIONS = (  # functions of each number of their input alone
    *(nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish),
    *(activations.Swish, activations.Mish, activations.HardSwish),
    *(activations.GELU, activations.GELUTanh, activations.QuickGELU),
)


def is_plain_conv(module: nn.Module) -> bool:
    """Returns whether the module is torch's 2d convolution or timm's with SAME padding."""
    return base_class(module) in (nn.Conv2d, Conv2dSame)


def is_plain_norm(module: nn.Module) -> bool:
    """Returns whether the module is a BatchNorm with running statistics, of torch or timm."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, BatchNormAct2d)
    return base_class(module) in kinds and has_running_statistics(module)


def is_plain_mlp(module: nn.Module) -> bool:
    """Returns whether the module is timm's ``Mlp`` with two linear layers; its variant with 1x1 convolutions isn't one."""
    block = cast(Any, module)
    return base_class(module) is Mlp and all(base_class(fc) is nn.Linear for fc in (block.fc1, block.fc2))


def is_recomputable(module: nn.Module) -> bool:
    """Returns whether the module is one of ``ACTIVATIONS`` or a norm without running statistics."""
    is_norm = "norm" in layer_roles(module) and not has_running_statistics(module)
    return base_class(module) in ACTIVATIONS or is_norm
