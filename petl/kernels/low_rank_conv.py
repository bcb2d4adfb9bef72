"""2d convolutions whose weight has a low-rank change."""

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
    rows: Tensor | None,
    geometry: ConvGeometry,
    unread: MemoryLayout | None = None,
) -> Tensor:
    """``F.conv2d`` of x [batch, in, h, w] with ``rows * (weight + change)``; ``rows`` [out] and ``change`` may be None.

    ``unread`` is as for ``linear``.
    """
    x, bias = cast_for_autocast(x, bias)
    with without_autocast(x.device):
        features = None
        if (
            change is not None
            and not change.down.requires_grad
            and _is_cheaper_by_features(weight, change.up, geometry)
        ):
            features = _conv_features(x, weight, change.down, geometry)
        args = (x, weight, bias, rows, *(change or (None, None, 0.0)), geometry, features, unread)
        return cast(Tensor, _Conv.apply(*args))


class _Conv(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Tensor | None,
        up: Tensor | None,
        down: Tensor | None,
        scale: float,
        geometry: ConvGeometry,
        features: Tensor | None,
        unread: MemoryLayout | None,
    ) -> Tensor:
        if unread is not None:
            return torch.empty_strided(*unread, dtype=x.dtype, device=x.device)
        return F.conv2d(x, merged_kernel(weight, rows, up, down, scale).to(x.dtype), bias, *geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, rows, up, down, ctx.scale, ctx.geometry, features, _ = inputs
        ctx.shape, ctx.dtype = x.shape, x.dtype
        keep = up is not None and features is None
        ctx.save_for_backward(x if keep else None, weight, rows, up, down, features)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (out,), (x, weight, rows, up, down, features) = grads, ctx.saved_tensors
        gx = gbias = gup = gdown = None
        if ctx.needs_input_grad[0]:
            whole = merged_kernel(weight, rows, up, down, ctx.scale).to(ctx.dtype)
            unread = out.new_empty(ctx.shape) if x is None else x  # of the input, only its shape is read
            gx = input_gradient(out, unread, whole, ctx.geometry)
        if ctx.needs_input_grad[2]:
            gbias = out.sum((0, 2, 3))
        if features is not None and ctx.needs_input_grad[4]:
            gup = _up_gradient(out, features, rows).to(up.dtype) * ctx.scale
        elif ctx.needs_input_grad[4] or ctx.needs_input_grad[5]:
            low = _gradients_by_features if _is_cheaper_by_features(weight, up, ctx.geometry) else _gradients_by_weight
            gup, gdown = low(out, cast(Tensor, x), weight, rows, up, down, ctx.geometry)
            gup, gdown = gup.to(up.dtype) * ctx.scale, gdown.to(down.dtype) * ctx.scale
        return gx, None, gbias, None, gup, gdown, None, None, None, None


def merged_kernel(weight: Tensor, rows: Tensor | None, up: Tensor | None, down: Tensor | None, scale: float) -> Tensor:
    """The weight that the convolution applies, the norm's rows multiplied in."""
    if rows is None:
        return merged_weight(weight, up, down, scale)
    scaled = weight * rows.view(-1, 1, 1, 1)
    if up is None or down is None:
        return scaled
    changed = scaled.flatten(1).addmm_((up * rows[:, None]).to(scaled.dtype), down.to(scaled.dtype), alpha=scale)
    return in_memory_format_of(weight, changed.view(weight.shape))


def _is_cheaper_by_features(weight: Tensor, up: Tensor, geometry: ConvGeometry) -> bool:
    """Whether two passes through ``rank`` features are fewer operations a position than the whole weight's gradient."""
    (out, rank), columns = up.shape, weight[0].numel()
    return geometry.groups == 1 and 2 * rank * (columns + out) < out * columns


def _conv_features(x: Tensor, weight: Tensor, down: Tensor, geometry: ConvGeometry) -> Tensor:
    """[batch, r, positions]: the input seen through ``down``."""
    if (pixels := _pixels(x, weight, geometry)) is not None:
        return project_each(down.to(x.dtype), pixels)
    kernel = _down_kernel(weight, down).to(x.dtype)
    if down.requires_grad:
        return F.conv2d(x, kernel, None, *geometry).flatten(2)
    return conv2d(x, kernel, None, None, None, geometry).flatten(2)  # which keeps nothing


def _pixels(x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor | None:
    """[batch, in, positions]: the input as a 1x1 convolution reads it; None for other convolutions.

    Products of a few rows are several times as fast as convolutions to a few channels.
    """
    if weight[0, 0].numel() > 1 or any(geometry.padding) or not x.is_contiguous():
        return None
    down, right = geometry.stride
    return (x if down == right == 1 else x[:, :, ::down, ::right]).flatten(2)


def _down_kernel(weight: Tensor, down: Tensor) -> Tensor:
    return down.view(down.shape[0], *weight.shape[1:])


def _up_gradient(out: Tensor, features: Tensor, rows: Tensor | None) -> Tensor:
    gup = torch.bmm(features, out.flatten(2).transpose(1, 2)).sum(0).T
    return gup if rows is None else gup * rows[:, None]


def _gradients_by_features(
    out: Tensor, x: Tensor, weight: Tensor, rows: Tensor | None, up: Tensor, down: Tensor, geometry: ConvGeometry
) -> tuple[Tensor, Tensor]:
    gup = _up_gradient(out, _conv_features(x, weight, down, geometry), rows)
    up = up if rows is None else up * rows[:, None]
    back = project_each(up.T.to(x.dtype), out.flatten(2))  # the gradient of the features: [batch, r, positions]
    if (pixels := _pixels(x, weight, geometry)) is not None:
        return gup, torch.bmm(back, pixels.transpose(1, 2)).sum(0)
    gdown = conv_backward(back.unflatten(2, out.shape[2:]), x, _down_kernel(weight, down).to(x.dtype), geometry, 1)
    return gup, gdown.flatten(1)


def _gradients_by_weight(
    out: Tensor, x: Tensor, weight: Tensor, rows: Tensor | None, up: Tensor, down: Tensor, geometry: ConvGeometry
) -> tuple[Tensor, Tensor]:
    whole = conv_backward(out, x, weight.to(x.dtype), geometry, 1).flatten(1)
    whole = (whole if rows is None else whole * rows[:, None]).to(up.dtype)
    return whole @ down.T, up.T @ whole
