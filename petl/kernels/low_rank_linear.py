"""Linear layers whose weight has a low-rank change."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from petl.kernels.autocast import cast_for_autocast, without_autocast
from petl.kernels.low_rank import LowRankChange, batched_matmul, merged_weight, project_each
from petl.kernels.memory_layout import MemoryLayout


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, change: LowRankChange | None, unread: MemoryLayout | None = None
) -> Tensor:
    """``F.linear`` of x [..., in] with the merged weight [out, in]; where ``down`` is frozen, keeps r numbers a row of x.

    A ``weight`` of lower precision than x is widened in the forward and again in the backward, and kept as it is.
    ``unread`` is the result's layout where nobody will read its numbers: they are not computed.
    """
    x, bias = cast_for_autocast(x, bias)
    flat = (
        x.flatten(0, -2) if x.ndim != 2 else x
    )  # outside: what a function returns may be written to, a view of it not
    with without_autocast(x.device):
        features = None
        if change is not None and not change.down.requires_grad:
            features = low_rank_features(flat, change.down)
        out = cast(Tensor, _Linear.apply(flat, weight, bias, *(change or (None, None, 0.0)), features, unread))
    return out.unflatten(0, x.shape[:-1]) if x.ndim != 2 else out


class _Linear(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        up: Tensor | None,
        down: Tensor | None,
        scale: float,
        features: Tensor | None,
        unread: MemoryLayout | None,
    ) -> Tensor:
        if unread is not None:
            return x.new_empty(x.shape[0], weight.shape[0])
        return F.linear(x, merged_weight(weight, up, down, scale).to(x.dtype), bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, up, down, ctx.scale, features, _ = inputs
        ctx.dtype = x.dtype
        keep = up is not None and features is None
        ctx.save_for_backward(x if keep else None, weight, up, down, features)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (out,), (x, weight, up, down, features) = grads, ctx.saved_tensors
        gx = gbias = gup = gdown = None
        if ctx.needs_input_grad[0]:
            gx = out @ merged_weight(weight, up, down, ctx.scale).to(ctx.dtype)
        if ctx.needs_input_grad[2]:
            gbias = out.sum(0)
        if ctx.needs_input_grad[3]:
            gup = up_gradient(out, low_rank_features(x, down) if features is None else features, ctx.scale, up.dtype)
        if ctx.needs_input_grad[4]:
            gdown = down_gradient(out, x, up, ctx.scale, down.dtype)
        return gx, None, gbias, gup, gdown, None, None, None


def low_rank_features(x: Tensor, down: Tensor) -> Tensor:
    """[parts, r, rows]: x [rows, in] seen through ``down`` [r, in]."""
    return project_each(down.to(x.dtype), _in_row_groups(x).mT)


def up_gradient(out: Tensor, features: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """The gradient of a linear layer's ``up`` [out, r], from that of its result [rows, out]."""
    return batched_matmul(features, _in_row_groups(out)).sum(0, dtype=dtype).T * scale


def down_gradient(out: Tensor, x: Tensor, up: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """The gradient of a linear layer's ``down`` [r, in], from that of its result [rows, out] and its input."""
    back = project_each(up.T.to(x.dtype), _in_row_groups(out).mT)  # the gradient of the features: [parts, r, rows]
    return batched_matmul(back, _in_row_groups(x)).sum(0, dtype=dtype) * scale


def _in_row_groups(x: Tensor) -> Tensor:
    """[parts, rows, features] of x [rows, features]: float32 numbers are multiplied faster in parts, where r is small."""
    parts = next(number for number in (16, 8, 4, 2, 1) if x.shape[0] % number == 0) if x.element_size() > 2 else 1
    return x.unflatten(0, (parts, x.shape[0] // parts))
