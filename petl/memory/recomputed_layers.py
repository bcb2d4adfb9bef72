"""Layers whose outputs are recomputed in the backward, or kept as one bit a number."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from petl.errors import StateError
from petl.graft.graft import Way
from petl.kernels import max_pool, relu_mask
from petl.memory import observers, recompute
from petl.memory.block_state import CLASSES_CHANGED
from petl.memory.deferred_conv import computed
from petl.memory.observers import is_recorded


class MaskedReLU(Way):
    """ReLU and ReLU6: one bit a number for the backward, where nobody else keeps the output."""

    keeps_output = False

    def forward(self, input: Tensor) -> Tensor:
        kept = recompute.active_tape()
        if kept is None or not is_recorded(input) or not input.requires_grad:
            return super().forward(input)  # type: ignore[misc]  # the base class's forward comes next in the order
        input = computed(input)
        high = 6.0 if isinstance(self, nn.ReLU6) else float("inf")
        if self.keeps_output and high == float("inf") and kept.way_to(input) is None:
            return super().forward(input)  # type: ignore[misc]  # torch's own ReLU keeps its output alone
        return _masked_relu(kept, input, high, inplace=bool(getattr(self, "inplace", False)), keep=self.keeps_output)


class SharedReLU(MaskedReLU):
    """ReLU and ReLU6 whose output a layer keeps, or makes again: no bits (torch's in-place ReLU6 would keep its input too)."""

    keeps_output = True


class IndexMaxPool(Way):
    """Maximum pooling that keeps the places of the maxima, in half the bytes, and not its input."""

    def forward(self, input: Tensor) -> Tensor:
        pool = cast(nn.MaxPool2d, self)
        if recompute.active_tape() is None or not is_recorded(input) or not input.requires_grad or pool.return_indices:
            return super().forward(input)  # type: ignore[misc]  # the base class's forward comes next in the order
        window = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
        return max_pool.max_pool(input, window)


class Recomputed(Way):
    """A norm or activation whose output is computed again in the backward, from the input, which is kept anyway."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        kept = recompute.active_tape()
        if kept is None or args or kwargs or not is_recorded(x) or not x.requires_grad:
            return super().forward(x, *args, **kwargs)  # type: ignore[misc]  # the base class's forward comes next
        x = computed(x)
        out, first = self._anew(x), kept.way_to(x)
        if first is None:
            kept.note(out, self._anew, x)
        else:
            kept.note_next(out, self._anew, first)
        return out

    def _anew(self, x: Tensor) -> Tensor:
        """The plain forward into a new tensor, also where the layer would overwrite its input."""
        if not isinstance(self, Recomputed):  # a class that a module has lost since the forward
            kind = type(self).__name__
            raise StateError(f"{kind} can't run again for this backward: {CLASSES_CHANGED}; run the backward first")
        before = getattr(self, "inplace", None)
        if before:
            self.inplace = False
        try:
            return super().forward(x)  # type: ignore[misc]  # as above
        finally:
            if before:
                self.inplace = before


class RecomputeScope(Way):
    """The whole model: what can be made again is noted during its forward."""

    outer = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        plain = super().forward  # type: ignore[misc]  # the base class's forward comes next in the order
        if not is_recorded(*args, kwargs) or not observers.can_hook_saved_tensors():
            return plain(*args, **kwargs)
        with recompute.RecomputeTape():
            return plain(*args, **kwargs)


def _masked_relu(kept: recompute.RecomputeTape, x: Tensor, high: float, *, inplace: bool, keep: bool = False) -> Tensor:
    first = kept.way_to(x)
    out, slot = relu_mask.clamp_with_mask(x, high, inplace, keep, None if first is None else first.again)
    if first is not None:
        kept.note_next(out, lambda x: x.clamp(0, high), first)
    elif slot is not None and not keep:
        kept.note_gate(out, slot)
    return out
