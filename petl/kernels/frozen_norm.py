"""BatchNorm in evaluation mode (frozen BatchNorm), alone and computed together with the convolution before it.

A frozen BatchNorm is an affine map of each channel: its scale can be multiplied into the convolution's weight.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from petl.kernels.autocast import cast_for_autocast, without_autocast
from petl.kernels.convolution import ConvGeometry, input_gradient


class BatchNormStats(NamedTuple):
    """The tensors of a frozen BatchNorm, each [channels], which it applies on axis 1: statistics, weight and bias."""

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float


def batch_norm_eval(x: Tensor, norm: BatchNormStats) -> Tensor:
    """Computes ``F.batch_norm`` in evaluation mode."""
    return F.batch_norm(x, *norm[:4], False, 0.0, norm.eps)


def scale_and_shift(norm: BatchNormStats) -> tuple[Tensor, Tensor]:
    """Returns the norm as an affine map ``scale * x + shift``, both [channels]."""
    scale = torch.rsqrt(norm.var + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def frozen_norm(x: Tensor, norm: BatchNormStats) -> Tensor:
    """Computes ``batch_norm_eval`` for a norm whose weight doesn't train; keeps nothing of the input's size."""
    return cast(Tensor, _FrozenNorm.apply(x, *norm))


def conv_frozen_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry, norm: BatchNormStats
) -> tuple[Tensor, Tensor]:
    """Computes the norm of ``F.conv2d`` with a frozen weight, where the norm's weight trains; returns both outputs.

    Only the convolution's output is kept. The backward multiplies the norm's scale into the weight, so the gradient of the
    convolution's output is never computed.
    """
    x, bias = cast_for_autocast(x, bias)
    with without_autocast(x.device):
        return cast("tuple[Tensor, Tensor]", _ConvFrozenNorm.apply(x, weight, bias, geometry, *norm))


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
        (grad_out,), (scale,) = grads, ctx.saved_tensors
        grad_x = grad_shift = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_out * scale.to(grad_out.dtype).view(-1, *[1] * (grad_out.ndim - 2))
        if ctx.needs_input_grad[4]:
            grad_shift = grad_out.sum([0, *range(2, grad_out.ndim)]).to(scale.dtype)
        return grad_x, None, None, None, grad_shift, None


class _ConvFrozenNorm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry, *norm: Any
    ) -> tuple[Tensor, Tensor]:
        conv_out = F.conv2d(x, weight.to(x.dtype), bias, *geometry)
        return batch_norm_eval(conv_out, BatchNormStats(*norm)), conv_out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, weight, _, ctx.geometry, *norm, ctx.eps = inputs
        ctx.shape = x.shape
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1], weight, *norm)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (grad_out, grad_conv_out), (conv_out, weight, mean, var, gain, bias) = grads, ctx.saved_tensors
        norm = BatchNormStats(mean, var, gain, bias, ctx.eps)
        through_conv, scale = cast(Tensor, grad_out), scale_and_shift(norm)[0]
        grad_x = grad_bias = grad_scale = grad_shift = None
        if grad_out is not None:
            grad_scale, grad_shift = _scale_and_shift_gradients(grad_out, conv_out, norm, *ctx.needs_input_grad[6:8])
        if (
            grad_conv_out is not None
        ):  # where ``grad_scale`` is differentiated, the gradient of ``conv_out`` comes in here
            through_norm = None if grad_out is None else grad_out * scale.to(grad_out.dtype).view(-1, 1, 1)
            through_conv = grad_conv_out if through_norm is None else grad_conv_out + through_norm
            scale = torch.ones_like(scale)
        if ctx.needs_input_grad[0]:
            kernel = (weight * scale.view(-1, 1, 1, 1)).to(through_conv.dtype)
            grad_x = input_gradient(through_conv, through_conv.new_empty(ctx.shape), kernel, ctx.geometry)
        if ctx.needs_input_grad[2]:
            grad_bias = through_conv.sum((0, 2, 3)) * scale.to(through_conv.dtype)
        return grad_x, None, grad_bias, None, None, None, grad_scale, grad_shift, None


def _scale_and_shift_gradients(
    grad_out: Tensor, x: Tensor, norm: BatchNormStats, needs_scale: bool, needs_shift: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Returns the gradients of the norm's weight and bias in one pass, from that of its output and from its input."""
    no_batch_stats = norm.mean.new_empty(0)
    needed = [False, needs_scale, needs_shift]
    args = (grad_out, x, norm.weight, norm.mean, norm.var, no_batch_stats, no_batch_stats, False, norm.eps, needed)
    grads = torch.ops.aten.native_batch_norm_backward(*args)
    return cast("tuple[Tensor | None, Tensor | None]", grads[1:])
