"""ReLU and ReLU6 that keep one bit for each number of their output, or nothing where another layer keeps that output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from petl.kernels.tensor_version import check_version


class ReluMask:
    """Where the gradient of a ReLU passes: read from its output or its input, or kept as one bit for each number.

    The output is read where another layer keeps it (``output_is_kept``), the input where ``recompute_input`` computes it.
    """

    def __init__(self, output: Tensor, high: float, output_is_kept: bool, recompute_input: Callable[[], Tensor] | None):
        self.shape, self.stride, self.recompute_input = output.shape, output.stride(), recompute_input
        self.output = output if output_is_kept and recompute_input is None else None
        self.version = output._version
        self.is_packed = not self.needs_no_bits() and _is_dense(output) and output.numel() % 8 == 0
        self.mask = None if self.needs_no_bits() else self._stored(_passes_gradient(output, high))

    def _stored(self, mask: Tensor) -> Tensor:
        return _pack_bits(mask.as_strided((mask.numel(),), (1,))) if self.is_packed else mask

    def needs_no_bits(self) -> bool:
        """Returns whether the gradient is read from the output or the input."""
        return self.output is not None or self.recompute_input is not None

    def use_output(self, output: Tensor) -> None:
        """Reads the gradient from the output from now on, which another layer keeps, and drops the bits."""
        self.output, self.version, self.mask = output, output._version, None

    def end_forward(self) -> None:
        """Takes the output's version after the forward: autograd counts an in-place operation once more at its end."""
        self.version = self.version if self.output is None else self.output._version

    def values(self) -> Tensor:
        """Returns the output, or the input computed a second time."""
        if self.output is None:
            return cast("Callable[[], Tensor]", self.recompute_input)()
        check_version(self.output, self.version)
        return self.output

    def as_bytes(self) -> Tensor:
        """Returns the bits as bytes in the output's memory layout, 0 where no gradient passes."""
        mask = cast(Tensor, self.mask)
        return _unpack_bits(mask).as_strided(self.shape, self.stride) if self.is_packed else mask.view(torch.uint8)


def clamp_with_mask(
    x: Tensor,
    high: float,
    inplace: bool,
    output_is_kept: bool = False,
    recompute_input: Callable[[], Tensor] | None = None,
) -> tuple[Tensor, ReluMask | None]:
    """Clamps ``x`` to [0, high]; returns the output, and the mask that its backward reads (None where nothing trains).

    Args:
        high: 6.0 for ReLU6, infinity for ReLU.
        inplace: writes the output into ``x`` where autograd allows it.
        output_is_kept: whether another layer keeps the output for its own backward.
        recompute_input: returns ``x``, computed a second time.
    """
    masks: list[ReluMask] = []
    in_place = inplace and not x._is_view() and not x.is_leaf
    out = cast(Tensor, _ClampWithMask.apply(x, high, in_place, output_is_kept, recompute_input, masks))
    masks[0].end_forward()
    return out, masks[0] if out.requires_grad else None


class _ClampWithMask(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        high: float,
        inplace: bool,
        output_is_kept: bool,
        recompute_input: Callable[[], Tensor] | None,
        masks: list[ReluMask],
    ) -> Tensor:
        if inplace:
            ctx.mark_dirty(x)
        clamp = torch.clamp_ if inplace else torch.clamp
        out = clamp(x, 0, high) if high < float("inf") else (F.relu_ if inplace else F.relu)(x)
        ctx.mask, ctx.high = ReluMask(out.detach(), high, output_is_kept, recompute_input), high
        masks.append(ctx.mask)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_out,), mask, high = grads, ctx.mask, ctx.high
        if not mask.needs_no_bits():
            grad_x = torch.ops.aten.threshold_backward(grad_out, mask.as_bytes(), 0)  # much faster than torch.where
        elif high == float("inf"):
            grad_x = torch.ops.aten.threshold_backward(grad_out, mask.values(), 0)
        else:
            grad_x = torch.ops.aten.hardtanh_backward(grad_out, mask.values(), 0, high)
        return grad_x, *[None] * 5


def _passes_gradient(out: Tensor, high: float) -> Tensor:
    """Returns booleans: whether the clamp has let each number through unchanged."""
    return out > 0 if high == float("inf") else (out > 0).bitwise_and_(out < high)


def _is_dense(tensor: Tensor) -> bool:
    """Returns whether the numbers lie side by side in memory, in whatever order."""
    strides = sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1)
    expected = 1
    for stride, size in strides:
        if stride != expected:
            return False
        expected *= size
    return True


def _pack_bits(mask: Tensor) -> Tensor:
    """Packs eight booleans into a byte: one multiplication of an int64 brings their bits together in its highest byte."""
    words = (mask.view(torch.int64) * 0x0102040810204080).bitwise_right_shift_(56)
    return words.bitwise_and_(255).to(torch.uint8)


def _unpack_bits(packed: Tensor) -> Tensor:
    """Returns one byte for each packed boolean, 0 for False: copies each byte to eight, and leaves one bit in each copy."""
    words = packed.to(torch.int64).mul_(0x0101010101010101)
    return words.bitwise_and_(0x8040201008040201 - (1 << 64)).view(torch.uint8)
