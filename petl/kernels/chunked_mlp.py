"""Two linear layers with an activation between them, computed in chunks of rows that stay in the processor's cache.

The hidden tensor between the layers is four times as wide as the input. Layer by layer, a step makes four tensors of that
size besides the one that it keeps, each in memory that the system has to provide and to clear first: glibc returns every
block of more than 32 MiB at once. In chunks, they are a few MiB that are reused. Gradients equal those of the plain layers
up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from petl.kernels.autocast import cast_for_autocast, without_autocast
from petl.kernels.low_rank import merged_weight
from petl.kernels.low_rank_linear import down_gradient, low_rank_features, up_gradient

CHUNK_FROM_BYTES = 2**25  # hidden tensors of this size and more are computed in chunks: their memory is new every time
CHUNK_BYTES = 2**22  # size of a chunk of the hidden tensor


class LowRankLinear(NamedTuple):
    """The tensors of a linear layer: weight [out, in], bias [out], and the weight's change ``scale * up @ down``.

    The bias and the change may train, the weight is frozen.
    """

    weight: Tensor
    bias: Tensor | None
    up: Tensor | None = None
    down: Tensor | None = None
    scale: float = 0.0

    def merged(self, dtype: torch.dtype) -> Tensor:
        """Returns the weight that the layer applies."""
        return merged_weight(self.weight, self.up, self.down, self.scale).to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.merged(x.dtype), self.bias)


LinearGradients = tuple[Tensor | None, Tensor | None, Tensor | None]  # of bias, up and down


def chunked_mlp(
    x: Tensor, first: LowRankLinear, second: LowRankLinear, activation: Callable[[Tensor], Tensor]
) -> Tensor:
    """Computes ``second(activation(first(x)))`` of x [..., in]; keeps x and the output of the first layer.

    ``activation`` works on each number alone and doesn't write to its input.
    """
    x, first_bias = cast_for_autocast(x, first.bias)
    _, second_bias = cast_for_autocast(x, second.bias)
    with without_autocast(x.device):
        layers = (*first._replace(bias=first_bias), *second._replace(bias=second_bias))
        out = cast(Tensor, _ChunkedMlp.apply(x.flatten(0, -2), *layers, activation))
    return out.unflatten(0, x.shape[:-1])


class _ChunkedMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *args: Any) -> Tensor:
        first, second, ctx.activation = LowRankLinear(*args[:5]), LowRankLinear(*args[5:10]), args[10]
        hidden, second_weight = first(x), second.merged(x.dtype)
        ctx.save_for_backward(x, hidden, *first[:4], *second[:4])
        ctx.scales = first.scale, second.scale
        out = x.new_empty(x.shape[0], second_weight.shape[0])
        for hidden_chunk, out_chunk in _row_chunks(hidden, out):
            if second.bias is None:
                torch.mm(ctx.activation(hidden_chunk), second_weight.T, out=out_chunk)
            else:
                torch.addmm(second.bias, ctx.activation(hidden_chunk), second_weight.T, out=out_chunk)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_out,), (x, hidden, *tensors) = grads, ctx.saved_tensors
        first = LowRankLinear(*tensors[:4], scale=ctx.scales[0])
        second = LowRankLinear(*tensors[4:], scale=ctx.scales[1])
        if torch.is_grad_enabled():  # the gradients will be differentiated: plain operations
            grad_x, of_first, of_second = _differentiable_gradients(ctx, grad_out, x, first, second)
        else:
            grad_x, of_first, of_second = _chunked_gradients(ctx, grad_out, x, hidden, first, second)
        return grad_x, None, *of_first, None, None, *of_second, None, None


def _row_chunks(*tensors: Tensor) -> zip[tuple[Tensor, ...]]:
    """Splits the tensors along their rows, such that the first tensor's chunks are of about ``CHUNK_BYTES`` bytes."""
    rows = max(CHUNK_BYTES // (tensors[0].shape[1] * tensors[0].element_size()) // 16 * 16, 16)
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def _chunked_gradients(
    ctx: Any, grad_out: Tensor, x: Tensor, hidden: Tensor, first: LowRankLinear, second: LowRankLinear
) -> tuple[Tensor | None, LinearGradients, LinearGradients]:
    """Returns the gradients of x and of both layers, without a new tensor of the hidden tensor's size."""
    grad_x, first_weight, second_weight = torch.empty_like(x), first.merged(x.dtype), second.merged(x.dtype)
    of_first, of_second = [], []
    for hidden_chunk, x_chunk, grad_out_chunk, grad_x_chunk in _row_chunks(hidden, x, grad_out, grad_x):
        with torch.enable_grad():
            leaf = hidden_chunk.detach().requires_grad_()
            active = ctx.activation(leaf)
        of_second.append(_linear_gradients(second, grad_out_chunk, active.detach()))
        (grad_hidden,) = torch.autograd.grad(active, leaf, grad_out_chunk @ second_weight)
        of_first.append(_linear_gradients(first, grad_hidden, x_chunk))
        if ctx.needs_input_grad[0]:
            torch.mm(grad_hidden, first_weight, out=grad_x_chunk)
    return grad_x if ctx.needs_input_grad[0] else None, _sum_gradients(of_first), _sum_gradients(of_second)


def _differentiable_gradients(
    ctx: Any, grad_out: Tensor, x: Tensor, first: LowRankLinear, second: LowRankLinear
) -> tuple[Tensor | None, LinearGradients, LinearGradients]:
    """Returns the same gradients, recorded by autograd."""
    inputs = (x, *first[1:4], *second[1:4])
    trained = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
    out = second(ctx.activation(first(x)))
    grads = iter(torch.autograd.grad(out, trained, grad_out, create_graph=True))
    of_inputs = [next(grads) if tensor is not None and tensor.requires_grad else None for tensor in inputs]
    return of_inputs[0], cast(LinearGradients, (*of_inputs[1:4],)), cast(LinearGradients, (*of_inputs[4:],))


def _linear_gradients(layer: LowRankLinear, grad_out: Tensor, x: Tensor) -> LinearGradients:
    """Returns the gradients of a layer's bias, up and down, from that of its output [rows, out] and its input [rows, in]."""
    _, bias, up, down, scale = layer
    grad_bias = grad_out.sum(0) if bias is not None and bias.requires_grad else None
    if up is None or down is None:
        return grad_bias, None, None
    grad_up = up_gradient(grad_out, low_rank_features(x, down), scale, up.dtype)
    return grad_bias, grad_up, down_gradient(grad_out, x, up, scale, down.dtype)


def _sum_gradients(of_chunks: list[LinearGradients]) -> LinearGradients:
    sums = (None if grads[0] is None else sum(grads) for grads in zip(*of_chunks, strict=True))
    return cast(LinearGradients, tuple(sums))
