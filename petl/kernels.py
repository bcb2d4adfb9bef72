"""Linear and convolution with a low-rank changed weight: the merged weight forward, low-rank gradients backward.

The plain way, ``F.linear(x, W + scale * up @ down)``, makes autograd compute the gradient of the whole weight and then
project it. Here the forward is the same, bit for bit, and keeps nothing but the layer's input; the backward makes the
merged weight again and computes the gradients of ``up`` and ``down`` through ``rank`` features. Gradients equal those of
the plain way up to rounding.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from petl.graft import autocasts, without_autocast

Geometry = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def merged(weight: Tensor, up: Tensor, down: Tensor, scale: float) -> Tensor:
    """``W + scale * up @ down`` in the shape and memory format of ``weight`` and the precision of ``up``."""
    changed = torch.addmm(weight.to(up.dtype).flatten(1), up, down, alpha=scale).view(weight.shape)
    last = weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    return changed.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def low_rank_linear(x: Tensor, weight: Tensor, bias: Tensor | None, up: Tensor, down: Tensor, scale: float) -> Tensor:
    """``F.linear`` of x [..., in] with the merged weight [out, in]; ``up`` is [out, r], ``down`` [r, in]."""
    x, bias = _as_autocast_would(x, bias)
    with without_autocast(x.device):
        return cast(Tensor, _Linear.apply(x, weight, bias, up, down, scale))


def low_rank_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, up: Tensor, down: Tensor, scale: float, geometry: Geometry
) -> Tensor:
    """``F.conv2d`` of x [batch, in, h, w] with the merged weight, ungrouped; ``geometry`` is (stride, padding, dilation)."""
    x, bias = _as_autocast_would(x, bias)
    with without_autocast(x.device):
        return cast(Tensor, _Conv.apply(x, weight, bias, up, down, scale, geometry))


def _as_autocast_would(x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Inputs in the type that autocast gives linear layers and convolutions, if it is on."""
    if not autocasts(x.device):
        return x, bias
    dtype = torch.get_autocast_dtype(x.device.type)
    return x.to(dtype), None if bias is None else bias.to(dtype)


class _Linear(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, up: Tensor, down: Tensor, scale: float) -> Tensor:
        return F.linear(x, merged(weight, up, down, scale).to(weight.dtype).to(x.dtype), bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, up, down, ctx.scale = inputs
        ctx.save_for_backward(x, weight, up, down)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (out,), (x, weight, up, down) = grads, ctx.saved_tensors
        rows, flat = out.flatten(0, -2), x.flatten(0, -2)
        gx = gbias = gup = gdown = None
        if ctx.needs_input_grad[0]:
            gx = out @ merged(weight, up, down, ctx.scale).to(weight.dtype).to(x.dtype)
        if ctx.needs_input_grad[2]:
            gbias = rows.sum(0)
        if ctx.needs_input_grad[3]:
            gup = (rows.T @ (flat @ down.T.to(x.dtype))).to(up.dtype) * ctx.scale
        if ctx.needs_input_grad[4]:
            gdown = ((rows @ up.to(x.dtype)).T @ flat).to(down.dtype) * ctx.scale
        return gx, None, gbias, gup, gdown, None


class _Conv(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, up: Tensor, down: Tensor, scale: float, geometry: Geometry
    ) -> Tensor:
        return F.conv2d(x, merged(weight, up, down, scale).to(weight.dtype).to(x.dtype), bias, *geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, up, down, ctx.scale, ctx.geometry = inputs
        ctx.save_for_backward(x, weight, up, down)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (out,), (x, weight, up, down) = grads, ctx.saved_tensors
        gx = gbias = gup = gdown = None
        if ctx.needs_input_grad[0]:
            whole = merged(weight, up, down, ctx.scale).to(weight.dtype).to(x.dtype)
            gx = _conv_backward(out, x, whole, ctx.geometry, 0)
        if ctx.needs_input_grad[2]:
            gbias = out.sum((0, 2, 3))
        kernel = down.view(down.shape[0], *weight.shape[1:]).to(x.dtype)
        if ctx.needs_input_grad[3]:
            features = F.conv2d(x, kernel, None, *ctx.geometry).flatten(2)  # [batch, r, positions]
            gup = torch.einsum("bop,brp->or", out.flatten(2), features).to(up.dtype) * ctx.scale
        if ctx.needs_input_grad[4]:
            features = F.conv2d(out, up.T[:, :, None, None].to(x.dtype))  # gradient of the rank features
            gdown = _conv_backward(features, x, kernel, ctx.geometry, 1).flatten(1).to(down.dtype) * ctx.scale
        return gx, None, gbias, gup, gdown, None, None


def _conv_backward(out: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, which: int) -> Tensor:
    """The gradient of a convolution's input (which=0) or weight (which=1)."""
    mask = [which == 0, which == 1, False]
    stride, padding, dilation = (list(pair) for pair in geometry)
    grads = torch.ops.aten.convolution_backward(out, x, weight, None, stride, padding, dilation, False, [0, 0], 1, mask)
    return cast(Tensor, grads[which])
