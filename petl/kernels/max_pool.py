"""Max pooling that keeps the indices of the maxima for the backward, and not its input."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor


def max_pool(x: Tensor, window: tuple[Any, ...]) -> Tensor:
    """``F.max_pool2d``; ``window`` is (kernel_size, stride, padding, dilation, ceil_mode)."""
    return cast(Tensor, _MaxPool.apply(x, window))


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[Any, ...]) -> Tensor:
        out, places = F.max_pool2d(x, *window, return_indices=True)
        ctx.window, ctx.shape, ctx.layout = window, x.shape, x.stride()
        ctx.save_for_backward(places.to(torch.int32))  # an image has fewer than 2**31 pixels
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (out,), (places,) = grads, ctx.saved_tensors
        unread = torch.empty_strided(ctx.shape, ctx.layout, dtype=out.dtype, device=out.device)  # its shape is read
        sizes = [[n] * 2 if isinstance(n, int) else list(n) for n in ctx.window[:4]]
        back = torch.ops.aten.max_pool2d_with_indices_backward
        return back(out, unread, *sizes, ctx.window[4], places.to(torch.int64)), None
