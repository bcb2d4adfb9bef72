"""What a single layer is: its roles by class, and the names of its weights and biases."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from petl.graft.classes import base_class

MULTI_MATRIX = (nn.RNNBase, nn.MultiheadAttention)  # layers that own several matrices and multiply by them themselves


def bias_names(module: nn.Module) -> list[str]:
    """Returns the names of the module's own bias vectors: ``bias``, ``q_bias``, ``in_proj_bias``, an LSTM's ``bias_ih_l0``."""
    own = {name: p for name, p in module._parameters.items() if p is not None}
    vectors = [name for name, p in own.items() if p.ndim == 1 and (name.endswith("_bias") or name.startswith("bias_"))]
    return [name for name in own if name == "bias" or name in vectors]


def layer_roles(module: nn.Module) -> list[str]:
    """Returns the roles that a layer plays by its class alone."""
    if isinstance(module, (nn.Linear, *MULTI_MATRIX)):
        return ["linear"]
    if isinstance(module, nn.modules.conv._ConvNd) or is_cond_conv(module):
        return ["depthwise" if 1 < cast(Any, module).groups == module.in_channels else "conv"]
    if has_running_statistics(module):
        return ["norm", "batchnorm"]
    return ["norm"] if _is_norm(module) else []


def is_layer(module: nn.Module) -> bool:
    """Returns whether the module multiplies by weights: a linear layer or a convolution of any kind."""
    return bool({"linear", "conv", "depthwise"} & {*layer_roles(module)})


def weight_names(module: nn.Module) -> list[str]:
    """Returns the names of the module's own matrices or kernels: of most layers, ``weight``."""
    if isinstance(module, MULTI_MATRIX):
        own = module._parameters.items()
        return [name for name, p in own if p is not None and p.ndim == 2 and "weight" in name]
    weight = module._parameters.get("weight")
    if weight is None:
        weight = getattr(module, "weight", None)  # may be computed: torch.nn.utils.parametrize
    return ["weight"] if isinstance(weight, Tensor) and weight.ndim > 1 else []


def is_cond_conv(module: nn.Module) -> bool:
    """Returns whether the module is timm's CondConv2d: a convolution with several experts, but no nn.Conv2d."""
    from timm.layers import CondConv2d

    return isinstance(module, CondConv2d)


def has_running_statistics(module: nn.Module) -> bool:
    """Returns whether the module keeps running statistics: any BatchNorm, also timm's and other libraries' own."""
    return any(module._buffers.get(name) is not None for name in ("running_mean", "running_var"))


def _is_norm(module: nn.Module) -> bool:
    """Returns whether the module has affine parameters and is a norm by class, or by name where a library wrote its own."""
    own = [p for p in module._parameters.values() if p is not None]
    known = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
    named = "norm" in base_class(module).__name__.lower() or "GlobalResponseNorm" in base_class(module).__name__
    return bool(own) and (
        isinstance(module, known) or (named and all(p.ndim > 0 and p.numel() == max(p.shape) for p in own))
    )
