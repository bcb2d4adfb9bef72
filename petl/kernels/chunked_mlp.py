"""Two linear layers with an activation between them, in parts that stay in the processor's cache.

What lies between the layers is four times as wide as what comes in. Layer by layer, a step makes four tensors of that size
besides the one that it keeps, each in memory that the system has to give and to clear first: glibc returns every block of
more than 32 MiB at once. In parts, they are a few MiB that are used again. Gradients equal those of the plain way up to
rounding.
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

CHUNK_FROM_BYTES = 2**25  # bytes from which a tensor's memory is new every time
CHUNK_BYTES = 2**22  # bytes of a part of it


class LowRankLinear(NamedTuple):
    """A linear layer: weight [out, in], bias [out], and the weight's change, ``scale * up @ down``, both of which train."""

    weight: Tensor
    bias: Tensor | None
    up: Tensor | None = None
    down: Tensor | None = None
    scale: float = 0.0

    def merged(self, dtype: torch.dtype) -> Tensor:
        """The weight that is applied."""
        return merged_weight(self.weight, self.up, self.down, self.scale).to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.merged(x.dtype), self.bias)


LinearGradients = tuple[Tensor | None, Tensor | None, Tensor | None]  # of bias, up and down


def chunked_mlp(
    x: Tensor, first: LowRankLinear, second: LowRankLinear, activation: Callable[[Tensor], Tensor]
) -> Tensor:
    """``second(activation(first(x)))`` of x [..., in]; keeps x and what the activation reads.

    ``activation`` treats each number alone and leaves its input as it is.
    """
    x, one = cast_for_autocast(x, first.bias)
    _, two = cast_for_autocast(x, second.bias)
    with without_autocast(x.device):
        layers = (*first._replace(bias=one), *second._replace(bias=two))
        out = cast(Tensor, _ChunkedMlp.apply(x.flatten(0, -2), *layers, activation))
    return out.unflatten(0, x.shape[:-1])


class _ChunkedMlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *given: Any) -> Tensor:
        first, second, ctx.activation = LowRankLinear(*given[:5]), LowRankLinear(*given[5:10]), given[10]
        hidden, whole = first(x), second.merged(x.dtype)
        ctx.save_for_backward(x, hidden, *first[:4], *second[:4])
        ctx.scales = first.scale, second.scale
        out = x.new_empty(x.shape[0], whole.shape[0])
        for some, into in _row_chunks(hidden, out):
            if second.bias is None:
                torch.mm(ctx.activation(some), whole.T, out=into)
            else:
                torch.addmm(second.bias, ctx.activation(some), whole.T, out=into)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (out,), (x, hidden, *given) = grads, ctx.saved_tensors
        first, second = LowRankLinear(*given[:4], scale=ctx.scales[0]), LowRankLinear(*given[4:], scale=ctx.scales[1])
        if torch.is_grad_enabled():  # the gradients will be differentiated: plain operations
            gx, one, two = _differentiable_gradients(ctx, out, x, first, second)
        else:
            gx, one, two = _chunked_gradients(ctx, out, x, hidden, first, second)
        return gx, None, *one, None, None, *two, None, None


def _row_chunks(*tensors: Tensor) -> zip[tuple[Tensor, ...]]:
    """Parts of the tensors' rows, such that the first tensor's parts are of about ``PART`` bytes."""
    rows = max(CHUNK_BYTES // (tensors[0].shape[1] * tensors[0].element_size()) // 16 * 16, 16)
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def _chunked_gradients(
    ctx: Any, out: Tensor, x: Tensor, hidden: Tensor, first: LowRankLinear, second: LowRankLinear
) -> tuple[Tensor | None, LinearGradients, LinearGradients]:
    """The gradients of x and of both layers; nothing of the hidden tensor's size is made."""
    gx, (one, two) = torch.empty_like(x), (first.merged(x.dtype), second.merged(x.dtype))
    ones, twos = [], []
    for some, below, above, into in _row_chunks(hidden, x, out, gx):
        with torch.enable_grad():
            read = some.detach().requires_grad_()
            active = ctx.activation(read)
        twos.append(_linear_gradients(second, above, active.detach()))
        (back,) = torch.autograd.grad(active, read, above @ two)
        ones.append(_linear_gradients(first, back, below))
        if ctx.needs_input_grad[0]:
            torch.mm(back, one, out=into)
    return gx if ctx.needs_input_grad[0] else None, _sum_gradients(ones), _sum_gradients(twos)


def _differentiable_gradients(
    ctx: Any, out: Tensor, x: Tensor, first: LowRankLinear, second: LowRankLinear
) -> tuple[Tensor | None, LinearGradients, LinearGradients]:
    """The same gradients, recorded by autograd."""
    inputs = (x, *first[1:4], *second[1:4])
    wanted = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
    found = iter(torch.autograd.grad(second(ctx.activation(first(x))), wanted, out, create_graph=True))
    every = [next(found) if tensor is not None and tensor.requires_grad else None for tensor in inputs]
    return every[0], cast(LinearGradients, (*every[1:4],)), cast(LinearGradients, (*every[4:],))


def _linear_gradients(layer: LowRankLinear, out: Tensor, x: Tensor) -> LinearGradients:
    """The gradients of a layer's bias, up and down from that of its result [rows, out] and its input [rows, in]."""
    _, bias, up, down, scale = layer
    gbias = out.sum(0) if bias is not None and bias.requires_grad else None
    if up is None or down is None:
        return gbias, None, None
    gup = up_gradient(out, low_rank_features(x, down), scale, up.dtype)
    return gbias, gup, down_gradient(out, x, up, scale, down.dtype)


def _sum_gradients(parts: list[LinearGradients]) -> LinearGradients:
    return cast(LinearGradients, tuple(None if some[0] is None else sum(some) for some in zip(*parts, strict=True)))
