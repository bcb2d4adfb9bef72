"""Max pooling that keeps the indices of the maxima for the backward, and not its input."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor


def max_pool(x: Tensor, window: tuple[Any, ...]) -> Tensor:
    """Computes ``F.max_pool2d``; ``window`` is (kernel_size, stride, padding, dilation, ceil_mode)."""
    return cast(Tensor, _MaxPool.apply(x, window))


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[Any, ...]) -> Tensor:
        out, indices = F.max_pool2d(x, *window, return_indices=True)
        ctx.window, ctx.shape, ctx.stride = window, x.shape, x.stride()
        ctx.save_for_backward(indices.to(torch.int32))  # an image has fewer than 2**31 pixels
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_out,), (indices,) = grads, ctx.saved_tensors
        like_x = torch.empty_strided(ctx.shape, ctx.stride, dtype=grad_out.dtype, device=grad_out.device)
        sizes = [[n] * 2 if isinstance(n, int) else list(n) for n in ctx.window[:4]]
        max_pool_backward = torch.ops.aten.max_pool2d_with_indices_backward  # of ``like_x``, it reads the shape only
        return max_pool_backward(grad_out, like_x, *sizes, ctx.window[4], indices.to(torch.int64)), None
