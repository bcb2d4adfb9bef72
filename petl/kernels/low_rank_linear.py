"""Linear layers whose weight has a low-rank change, with a backward that is cheap in time and memory."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from petl.kernels.autocast import cast_for_autocast, without_autocast
from petl.kernels.low_rank import LowRankChange, batched_matmul, merged_weight, project_each
from petl.kernels.memory_layout import MemoryLayout


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    change: LowRankChange | None,
    unused_output: MemoryLayout | None = None,
) -> Tensor:
    """Computes ``F.linear`` of x [..., in] with the merged weight [out, in], and keeps x for the backward.

    Where ``down`` is frozen, it keeps r numbers for each row of x instead. A ``weight`` of lower precision than x is cast to
    the dtype of x in the forward and again in the backward, and kept as it is. ``unused_output`` is the layout of the output
    where nobody will read its values: then they are not computed.
    """
    x, bias = cast_for_autocast(x, bias)
    flat = (
        x.flatten(0, -2) if x.ndim != 2 else x
    )  # outside the function: its output may be written to, a view of it not
    with without_autocast(x.device):
        features = None
        if change is not None and not change.down.requires_grad:
            features = low_rank_features(flat, change.down)
        args = (flat, weight, bias, *(change or (None, None, 0.0)), features, unused_output)
        out = cast(Tensor, _Linear.apply(*args))
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
        unused_output: MemoryLayout | None,
    ) -> Tensor:
        if unused_output is not None:
            return x.new_empty(x.shape[0], weight.shape[0])
        return F.linear(x, merged_weight(weight, up, down, scale).to(x.dtype), bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, up, down, ctx.scale, features, _ = inputs
        ctx.dtype = x.dtype
        needs_x = up is not None and features is None
        ctx.save_for_backward(x if needs_x else None, weight, up, down, features)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_out,), (x, weight, up, down, features) = grads, ctx.saved_tensors
        grad_x = grad_bias = grad_up = grad_down = None
        if ctx.needs_input_grad[0]:
            grad_x = grad_out @ merged_weight(weight, up, down, ctx.scale).to(ctx.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_out.sum(0)
        if ctx.needs_input_grad[3]:
            features = low_rank_features(x, down) if features is None else features
            grad_up = up_gradient(grad_out, features, ctx.scale, up.dtype)
        if ctx.needs_input_grad[4]:
            grad_down = down_gradient(grad_out, x, up, ctx.scale, down.dtype)
        return grad_x, None, grad_bias, grad_up, grad_down, None, None, None


def low_rank_features(x: Tensor, down: Tensor) -> Tensor:
    """Returns x [rows, in] projected by ``down`` [r, in], as [groups, r, rows of a group]."""
    return project_each(down.to(x.dtype), _in_row_groups(x).mT)


def up_gradient(grad_out: Tensor, features: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Returns the gradient of ``up`` [out, r], from that of the layer's output [rows, out] and the low-rank features."""
    return batched_matmul(features, _in_row_groups(grad_out)).sum(0, dtype=dtype).T * scale


def down_gradient(grad_out: Tensor, x: Tensor, up: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Returns the gradient of ``down`` [r, in], from that of the layer's output [rows, out] and its input [rows, in]."""
    grad_features = project_each(up.T.to(x.dtype), _in_row_groups(grad_out).mT)  # [groups, r, rows of a group]
    return batched_matmul(grad_features, _in_row_groups(x)).sum(0, dtype=dtype) * scale


def _in_row_groups(x: Tensor) -> Tensor:
    """Returns x [rows, n] as [groups, rows of a group, n]: where r is small, float32 products are faster in groups."""
    groups = next(number for number in (16, 8, 4, 2, 1) if x.shape[0] % number == 0) if x.element_size() > 2 else 1
    return x.unflatten(0, (groups, x.shape[0] // groups))
