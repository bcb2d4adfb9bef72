"""ReLU and ReLU6 that keep one bit a number for the backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from petl.kernels.tensor_version import check_version


class ReluMask:
    """Where a gate was open: numbers that tell, the gate's output or its input, or one bit a number.

    The output where somebody keeps that anyway; the input where it can be made again.
    """

    def __init__(self, output: Tensor, high: float, keep: bool, again: Callable[[], Tensor] | None):
        self.shape, self.stride, self.again = output.shape, output.stride(), again
        self.kept, self.version = output if keep and again is None else None, output._version
        self.is_packed = not self.is_told() and _is_dense(output) and output.numel() % 8 == 0
        self.mask = None if self.is_told() else self._bits(_passes_gradient(output, high))

    def _bits(self, mask: Tensor) -> Tensor:
        return _pack_bits(mask.as_strided((mask.numel(),), (1,))) if self.is_packed else mask

    def is_told(self) -> bool:
        """Whether numbers tell, so that no bits are kept."""
        return self.kept is not None or self.again is not None

    def take(self, output: Tensor) -> None:
        """Somebody keeps the output: the bits aren't needed."""
        self.kept, self.version, self.mask = output, output._version, None

    def made(self) -> None:
        """The gate's forward is over: autograd counts a write in place once more when it is."""
        self.version = self.version if self.kept is None else self.kept._version

    def numbers(self) -> Tensor:
        """The gate's output, or its input."""
        if self.kept is None:
            return cast("Callable[[], Tensor]", self.again)()
        check_version(self.kept, self.version)
        return self.kept

    def open(self) -> Tensor:
        """Bytes in the output's layout, 0 where no gradient passes."""
        mask = cast(Tensor, self.mask)
        return _unpack_bits(mask).as_strided(self.shape, self.stride) if self.is_packed else mask.view(torch.uint8)


def clamp_with_mask(
    x: Tensor, high: float, inplace: bool, keep: bool = False, again: Callable[[], Tensor] | None = None
) -> tuple[Tensor, ReluMask | None]:
    """``x`` clamped to [0, high] for a step, and the slot that its backward reads.

    ``keep``: somebody keeps the output; ``again`` makes x again.
    """
    slots: list[ReluMask] = []
    out = cast(
        Tensor, _ClampWithMask.apply(x, high, inplace and not x._is_view() and not x.is_leaf, keep, again, slots)
    )
    slots[0].made()
    return out, slots[0] if out.requires_grad else None


class _ClampWithMask(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        high: float,
        inplace: bool,
        keep: bool,
        again: Callable[[], Tensor] | None,
        slots: list[ReluMask],
    ) -> Tensor:
        if inplace:
            ctx.mark_dirty(x)
        clamp = torch.clamp_ if inplace else torch.clamp
        out = clamp(x, 0, high) if high < float("inf") else (F.relu_ if inplace else F.relu)(x)
        ctx.slot, ctx.high = ReluMask(out.detach(), high, keep, again), high
        slots.append(ctx.slot)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (out,), slot, high = grads, ctx.slot, ctx.high
        if not slot.is_told():
            gx = torch.ops.aten.threshold_backward(out, slot.open(), 0)  # several times as fast as torch.where
        elif high == float("inf"):
            gx = torch.ops.aten.threshold_backward(out, slot.numbers(), 0)
        else:
            gx = torch.ops.aten.hardtanh_backward(out, slot.numbers(), 0, high)
        return gx, *[None] * 5


def _passes_gradient(out: Tensor, high: float) -> Tensor:
    return out > 0 if high == float("inf") else (out > 0).bitwise_and_(out < high)


def _is_dense(mask: Tensor) -> bool:
    """Whether the numbers lie side by side in memory, in whatever order."""
    steps = sorted((stride, size) for stride, size in zip(mask.stride(), mask.shape, strict=True) if size > 1)
    expected = 1
    for stride, size in steps:
        if stride != expected:
            return False
        expected *= size
    return True


def _pack_bits(mask: Tensor) -> Tensor:
    """Eight booleans to a byte: as an integer, one multiplication brings their bits together in the highest byte."""
    words = (mask.view(torch.int64) * 0x0102040810204080).bitwise_right_shift_(56)
    return words.bitwise_and_(255).to(torch.uint8)


def _unpack_bits(packed: Tensor) -> Tensor:
    """A byte for each boolean again, 0 for False: spread each byte over eight, leave one bit in each."""
    words = packed.to(torch.int64).mul_(0x0101010101010101)
    return words.bitwise_and_(0x8040201008040201 - (1 << 64)).view(torch.uint8)
