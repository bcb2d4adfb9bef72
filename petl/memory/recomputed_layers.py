"""Layers of ``memory="lean"``: their outputs are recomputed in the backward, or kept as one bit for each number.

Each one runs its fast path only inside a ``RecomputeScope``, which is the whole model.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from petl.errors import StateError
from petl.graft.kinds import FastPath
from petl.kernels.max_pool import max_pool
from petl.kernels.relu_mask import clamp_with_mask
from petl.memory.block_state import CLASSES_CHANGED
from petl.memory.deferred_conv import computed
from petl.memory.observers import can_hook_saved_tensors, is_recorded
from petl.memory.recompute import RecomputeTape, active_tape


class RecomputeScope(FastPath):
    """The whole model: its forward records on a tape which tensors can be recomputed."""

    around_grafts = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        plain = super().forward  # type: ignore[misc]  # the base class's forward comes next in the order
        if not is_recorded(*args, kwargs) or not can_hook_saved_tensors():
            return plain(*args, **kwargs)
        with RecomputeTape():
            return plain(*args, **kwargs)


class Recomputed(FastPath):
    """A norm or activation whose output is recomputed in the backward from its input, which is kept anyway."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        tape = active_tape()
        if tape is None or args or kwargs or not is_recorded(x) or not x.requires_grad:
            return super().forward(x, *args, **kwargs)  # type: ignore[misc]  # the base class's forward comes next
        x = computed(x)
        out, first = self.out_of_place(x), tape.lookup(x)
        if first is None:
            tape.record(out, self.out_of_place, x)
        else:
            tape.record_step(out, self.out_of_place, first)
        return out

    def out_of_place(self, x: Tensor) -> Tensor:
        """Runs the plain forward into a new tensor, also where the layer would overwrite its input."""
        if not isinstance(self, Recomputed):  # a class that a module has lost since the forward
            kind = type(self).__name__
            raise StateError(f"{kind} can't run again for this backward: {CLASSES_CHANGED}; run the backward first")
        inplace = getattr(self, "inplace", None)
        if inplace:
            self.inplace = False
        try:
            return super().forward(x)  # type: ignore[misc]  # as above
        finally:
            if inplace:
                self.inplace = inplace


class MaskedReLU(FastPath):
    """ReLU and ReLU6 that keep one bit for each number, where no other layer keeps the output."""

    output_is_kept = False

    def forward(self, input: Tensor) -> Tensor:
        tape = active_tape()
        if tape is None or not is_recorded(input) or not input.requires_grad:
            return super().forward(input)  # type: ignore[misc]  # the base class's forward comes next in the order
        input = computed(input)
        high = 6.0 if isinstance(self, nn.ReLU6) else float("inf")
        if self.output_is_kept and high == float("inf") and tape.lookup(input) is None:
            return super().forward(input)  # type: ignore[misc]  # torch's own ReLU keeps its output alone
        inplace = bool(getattr(self, "inplace", False))
        return _masked_relu(tape, input, high, inplace=inplace, output_is_kept=self.output_is_kept)


class SharedReLU(MaskedReLU):
    """ReLU and ReLU6 whose output another layer keeps or recomputes: no bits (torch's in-place ReLU6 would keep its input)."""

    output_is_kept = True


def _masked_relu(tape: RecomputeTape, x: Tensor, high: float, *, inplace: bool, output_is_kept: bool) -> Tensor:
    first = tape.lookup(x)
    out, mask = clamp_with_mask(x, high, inplace, output_is_kept, None if first is None else first.tensor)
    if first is not None:
        tape.record_step(out, lambda x: x.clamp(0, high), first)
    elif mask is not None and not output_is_kept:
        tape.record_mask(out, mask)
    return out


class IndexMaxPool(FastPath):
    """Max pooling that keeps the indices of the maxima as int32, and not its input."""

    def forward(self, input: Tensor) -> Tensor:
        pool = cast(nn.MaxPool2d, self)
        if active_tape() is None or not is_recorded(input) or not input.requires_grad or pool.return_indices:
            return super().forward(input)  # type: ignore[misc]  # the base class's forward comes next in the order
        window = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
        return max_pool(input, window)
