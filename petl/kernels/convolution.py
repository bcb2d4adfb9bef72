"""The geometry of a 2d convolution, and its gradients."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor


class ConvGeometry(NamedTuple):
    """How a 2d convolution goes over its input, padding done already where it isn't symmetric."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def input_gradient(out: Tensor, x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """The gradient of x, of which only the shape is read.

    A 1x1 convolution with strides skips most of its input: computed where it reads, as torch's own kernels for strides
    take up to five times as long.
    """
    if weight[0, 0].numel() > 1 or geometry.stride == (1, 1) or any(geometry.padding):
        return conv_backward(out, x, weight, geometry, 0)
    down, right = geometry.stride
    read = out.new_empty(x.shape[0], x.shape[1], *out.shape[2:])
    gx = torch.zeros_like(x, dtype=out.dtype)
    gx[:, :, ::down, ::right] = conv_backward(out, read, weight, geometry._replace(stride=(1, 1)), 0)
    return gx


def conv_backward(out: Tensor, x: Tensor, weight: Tensor, geometry: ConvGeometry, which: int) -> Tensor:
    """The gradient of a convolution's input (which=0) or weight (which=1)."""
    mask = [which == 0, which == 1, False]
    stride, padding, dilation = (list(pair) for pair in geometry[:3])
    grads = torch.ops.aten.convolution_backward(
        out, x, weight, None, stride, padding, dilation, False, [0, 0], geometry.groups, mask
    )
    return cast(Tensor, grads[which])
