"""BatchNorm in evaluation mode (frozen BatchNorm), alone and together with the convolution before it."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from petl.kernels.autocast import cast_for_autocast, without_autocast
from petl.kernels.convolution import ConvGeometry, input_gradient
from petl.kernels.low_rank_conv import merged_kernel


class BatchNormStats(NamedTuple):
    """What a norm held still does on axis 1: ``F.batch_norm`` in evaluation mode."""

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float


def frozen_norm(x: Tensor, norm: BatchNormStats) -> Tensor:
    """``normed``, for a norm whose weight doesn't train; keeps nothing of the input's size."""
    return cast(Tensor, _FrozenNorm.apply(x, *norm))


def conv_frozen_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry, norm: BatchNormStats
) -> tuple[Tensor, Tensor]:
    """``normed`` of ``F.conv2d`` with a frozen weight, for a norm whose weight trains; and what lies between.

    That is all it keeps. The backward multiplies the norm into the weight, so a step makes no gradient of what lies between.
    """
    x, bias = cast_for_autocast(x, bias)
    with without_autocast(x.device):
        return cast("tuple[Tensor, Tensor]", _ConvFrozenNorm.apply(x, weight, bias, geometry, *norm))


def batch_norm_eval(x: Tensor, norm: BatchNormStats) -> Tensor:
    """What a norm held still returns."""
    return F.batch_norm(x, *norm[:4], False, 0.0, norm.eps)


def scale_and_shift(norm: BatchNormStats) -> tuple[Tensor, Tensor]:
    """(rows, shift), both [channels]: what the norm does, ``rows * x + shift``."""
    rows = torch.rsqrt(norm.var + norm.eps)
    rows = rows if norm.weight is None else rows * norm.weight
    shift = -norm.mean * rows
    return rows, shift if norm.bias is None else shift + norm.bias


class _ConvFrozenNorm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry, *norm: Any
    ) -> tuple[Tensor, Tensor]:
        between = F.conv2d(x, weight.to(x.dtype), bias, *geometry)
        return batch_norm_eval(between, BatchNormStats(*norm)), between

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, weight, _, ctx.geometry, *norm, ctx.eps = inputs
        ctx.shape = x.shape
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1], weight, *norm)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (out, second), (between, weight, mean, var, scale, shift) = grads, ctx.saved_tensors
        norm = BatchNormStats(mean, var, scale, shift, ctx.eps)
        through, rows = cast(Tensor, out), scale_and_shift(norm)[0]
        gx = gbias = gscale = gshift = None
        if out is not None:
            gscale, gshift = _scale_and_shift_gradients(out, between, norm, *ctx.needs_input_grad[6:8])
        if second is not None:  # where ``gscale`` is differentiated, the gradient of ``between`` comes back here
            through = second if out is None else second + out * rows.to(out.dtype).view(-1, 1, 1)
            rows = torch.ones_like(rows)
        if ctx.needs_input_grad[0]:
            whole = merged_kernel(weight, rows, None, None, 0.0).to(through.dtype)
            gx = input_gradient(through, through.new_empty(ctx.shape), whole, ctx.geometry)
        if ctx.needs_input_grad[2]:
            gbias = through.sum((0, 2, 3)) * rows.to(through.dtype)
        return gx, None, gbias, None, None, None, gscale, gshift, None


def _scale_and_shift_gradients(
    out: Tensor, x: Tensor, norm: BatchNormStats, scale: bool, shift: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of the norm's weight and bias, in one pass, from that of its result and its input."""
    unread = norm.mean.new_empty(0)  # the batch's statistics
    backward = torch.ops.aten.native_batch_norm_backward
    args = (out, x, norm.weight, norm.mean, norm.var, unread, unread, False, norm.eps, [False, scale, shift])
    return cast("tuple[Tensor | None, Tensor | None]", backward(*args)[1:])


class _FrozenNorm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *norm: Any) -> Tensor:
        return batch_norm_eval(x, BatchNormStats(*norm))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(scale_and_shift(BatchNormStats(*inputs[1:]))[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (out,), (rows,) = grads, ctx.saved_tensors
        gx = gbias = None
        if ctx.needs_input_grad[0]:
            gx = out * rows.to(out.dtype).view(-1, *[1] * (out.ndim - 2))
        if ctx.needs_input_grad[4]:
            gbias = out.sum([0, *range(2, out.ndim)]).to(rows.dtype)
        return gx, None, None, None, gbias, None
