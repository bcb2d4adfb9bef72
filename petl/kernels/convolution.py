"""The geometry of a 2d convolution, and its gradients."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor


class ConvGeometry(NamedTuple):
    """How a 2d convolution steps over its input, in the order of ``F.conv2d``; other padding than this is applied before."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def input_gradient(grad_out: Tensor, x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """Returns the gradient of the input ``x``, of which only the shape is read.

    A strided 1x1 convolution skips most of its input. Its gradient is computed only at the positions that are read:
    torch's own kernels for strides take up to five times as long.
    """
    if weight[0, 0].numel() > 1 or geometry.stride == (1, 1) or any(geometry.padding):
        return conv_backward(grad_out, x, weight, geometry, 0)
    down, right = geometry.stride
    read_part = grad_out.new_empty(x.shape[0], x.shape[1], *grad_out.shape[2:])
    grad_x = torch.zeros_like(x, dtype=grad_out.dtype)
    grad_x[:, :, ::down, ::right] = conv_backward(grad_out, read_part, weight, geometry._replace(stride=(1, 1)), 0)
    return grad_x


def conv_backward(grad_out: Tensor, x: Tensor, weight: Tensor, geometry: ConvGeometry, which: int) -> Tensor:
    """Returns the gradient of a convolution's input (``which=0``) or weight (``which=1``)."""
    mask = [which == 0, which == 1, False]
    stride, padding, dilation = (list(pair) for pair in geometry[:3])
    grads = torch.ops.aten.convolution_backward(
        grad_out, x, weight, None, stride, padding, dilation, False, [0, 0], geometry.groups, mask
    )
    return cast(Tensor, grads[which])
