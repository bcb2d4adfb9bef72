"""2d convolutions whose weight has a low-rank change, with a backward that is cheap in time and memory."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from petl.kernels.autocast import cast_for_autocast, without_autocast
from petl.kernels.convolution import ConvGeometry, conv_backward, input_gradient
from petl.kernels.low_rank import LowRankChange, merged_weight, project_each
from petl.kernels.memory_layout import MemoryLayout, in_memory_format_of


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    change: LowRankChange | None,
    row_scale: Tensor | None,
    geometry: ConvGeometry,
    unused_output: MemoryLayout | None = None,
) -> Tensor:
    """Computes ``F.conv2d`` of x [batch, in, h, w] with the weight ``row_scale * (weight + change)``.

    ``row_scale`` [out] is the scale of a frozen norm after the convolution; it and ``change`` may be None.
    ``unused_output`` is the layout of the output where nobody will read its values: then they are not computed.
    """
    x, bias = cast_for_autocast(x, bias)
    with without_autocast(x.device):
        features = None
        if change is not None and not change.down.requires_grad:
            by_features = _is_cheaper_by_features(weight, change.up, geometry)
            features = _conv_features(x, weight, change.down, geometry) if by_features else None
        args = (x, weight, bias, row_scale, *(change or (None, None, 0.0)), geometry, features, unused_output)
        return cast(Tensor, _Conv.apply(*args))


class _Conv(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        row_scale: Tensor | None,
        up: Tensor | None,
        down: Tensor | None,
        scale: float,
        geometry: ConvGeometry,
        features: Tensor | None,
        unused_output: MemoryLayout | None,
    ) -> Tensor:
        if unused_output is not None:
            return torch.empty_strided(*unused_output, dtype=x.dtype, device=x.device)
        return F.conv2d(x, _merged_kernel(weight, row_scale, up, down, scale).to(x.dtype), bias, *geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, row_scale, up, down, ctx.scale, ctx.geometry, features, _ = inputs
        ctx.shape, ctx.dtype = x.shape, x.dtype
        needs_x = up is not None and features is None
        ctx.save_for_backward(x if needs_x else None, weight, row_scale, up, down, features)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_out,), (x, weight, row_scale, up, down, features) = grads, ctx.saved_tensors
        grad_x = grad_bias = grad_up = grad_down = None
        if ctx.needs_input_grad[0]:
            kernel = _merged_kernel(weight, row_scale, up, down, ctx.scale).to(ctx.dtype)
            like_x = grad_out.new_empty(ctx.shape) if x is None else x
            grad_x = input_gradient(grad_out, like_x, kernel, ctx.geometry)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_out.sum((0, 2, 3))
        if features is not None and ctx.needs_input_grad[4]:
            grad_up = _up_gradient(grad_out, features, row_scale).to(up.dtype) * ctx.scale
        elif ctx.needs_input_grad[4] or ctx.needs_input_grad[5]:
            by_features = _is_cheaper_by_features(weight, up, ctx.geometry)
            factor_gradients = _gradients_by_features if by_features else _gradients_by_weight
            grad_up, grad_down = factor_gradients(grad_out, cast(Tensor, x), weight, row_scale, up, down, ctx.geometry)
            grad_up, grad_down = grad_up.to(up.dtype) * ctx.scale, grad_down.to(down.dtype) * ctx.scale
        return grad_x, None, grad_bias, None, grad_up, grad_down, None, None, None, None


def _merged_kernel(
    weight: Tensor, row_scale: Tensor | None, up: Tensor | None, down: Tensor | None, scale: float
) -> Tensor:
    """Returns the weight that the convolution applies: merged, each row multiplied by the norm's scale."""
    if row_scale is None:
        return merged_weight(weight, up, down, scale)
    scaled = weight * row_scale.view(-1, 1, 1, 1)
    if up is None or down is None:
        return scaled
    scaled_up = (up * row_scale[:, None]).to(scaled.dtype)
    changed = scaled.flatten(1).addmm_(scaled_up, down.to(scaled.dtype), alpha=scale)
    return in_memory_format_of(weight, changed.view(weight.shape))


def _is_cheaper_by_features(weight: Tensor, up: Tensor, geometry: ConvGeometry) -> bool:
    """Returns whether two passes through ``rank`` features are fewer operations a position than the whole weight's gradient."""
    (out, rank), columns = up.shape, weight[0].numel()
    return geometry.groups == 1 and 2 * rank * (columns + out) < out * columns


def _conv_features(x: Tensor, weight: Tensor, down: Tensor, geometry: ConvGeometry) -> Tensor:
    """Returns the input convolved with ``down``, as [batch, r, positions]."""
    if (pixels := _pixels(x, weight, geometry)) is not None:
        return project_each(down.to(x.dtype), pixels)
    kernel = _down_kernel(weight, down).to(x.dtype)
    if down.requires_grad:
        return F.conv2d(x, kernel, None, *geometry).flatten(2)
    return conv2d(x, kernel, None, None, None, geometry).flatten(2)  # which keeps nothing


def _pixels(x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor | None:
    """Returns the input as a 1x1 convolution reads it, [batch, in, positions]; None for other convolutions.

    Matrix products of a few rows are several times as fast as convolutions to a few channels.
    """
    if weight[0, 0].numel() > 1 or any(geometry.padding) or not x.is_contiguous():
        return None
    down, right = geometry.stride
    return (x if down == right == 1 else x[:, :, ::down, ::right]).flatten(2)


def _down_kernel(weight: Tensor, down: Tensor) -> Tensor:
    """Returns ``down`` as a convolution's weight, [r, in / groups, kernel height, kernel width]."""
    return down.view(down.shape[0], *weight.shape[1:])


def _up_gradient(grad_out: Tensor, features: Tensor, row_scale: Tensor | None) -> Tensor:
    grad_up = torch.bmm(features, grad_out.flatten(2).transpose(1, 2)).sum(0).T
    return grad_up if row_scale is None else grad_up * row_scale[:, None]


def _gradients_by_features(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    row_scale: Tensor | None,
    up: Tensor,
    down: Tensor,
    geometry: ConvGeometry,
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of ``up`` and ``down`` through the ``rank`` features between them."""
    grad_up = _up_gradient(grad_out, _conv_features(x, weight, down, geometry), row_scale)
    scaled_up = up if row_scale is None else up * row_scale[:, None]
    grad_features = project_each(scaled_up.T.to(x.dtype), grad_out.flatten(2))  # [batch, r, positions]
    if (pixels := _pixels(x, weight, geometry)) is not None:
        return grad_up, torch.bmm(grad_features, pixels.transpose(1, 2)).sum(0)
    kernel, grad_map = _down_kernel(weight, down).to(x.dtype), grad_features.unflatten(2, grad_out.shape[2:])
    return grad_up, conv_backward(grad_map, x, kernel, geometry, 1).flatten(1)


def _gradients_by_weight(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    row_scale: Tensor | None,
    up: Tensor,
    down: Tensor,
    geometry: ConvGeometry,
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of ``up`` and ``down`` as projections of the whole weight's gradient."""
    grad_weight = conv_backward(grad_out, x, weight.to(x.dtype), geometry, 1).flatten(1)
    grad_weight = (grad_weight if row_scale is None else grad_weight * row_scale[:, None]).to(up.dtype)
    return grad_weight @ down.T, up.T @ grad_weight
