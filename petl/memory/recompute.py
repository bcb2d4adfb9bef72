"""Tensors that are computed again instead of kept: during a forward, each saved tensor is looked up among the noted ones.

A norm or activation keeps its input for its own backward. Whoever saves its output (a linear layer, a convolution, a
product) would keep a second tensor; with the way noted, torch's saved-tensor hooks keep the way to it instead.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from petl.kernels import autocast
from petl.kernels.relu_mask import ReluMask
from petl.kernels.tensor_version import check_version
from petl.memory.observers import saved_tensor_hooks


def in_compute_dtype(x: Tensor) -> Tensor:
    """The input in the type that the layer computes in: made again from what ``x`` is made of, where it is."""
    kept = active_tape()
    return x if kept is None else kept.cast(x, autocast.compute_dtype(x))


_TAPES = threading.local()


def active_tape() -> RecomputeTape | None:
    """What the forward that runs in this thread notes, if it notes anything here.

    Not while compiling, nor where somebody else's hooks see what is saved: a checkpointed part has to run the second time,
    when this forward is over, as it ran the first time.
    """
    kept = None if torch.compiler.is_compiling() else getattr(_TAPES, "active", None)
    return kept if kept is not None and saved_tensor_hooks() == kept.pair else None


@dataclass
class Recomputation:
    """How to make a tensor again: the function and its input, and the autocast that was on."""

    make: Callable[[Tensor], Tensor]
    source: Tensor
    stride: tuple[int, ...]
    autocast: tuple[str, bool, torch.dtype]
    version: int = 0
    made: Callable[[], Tensor | None] = field(default=lambda: None)
    held: Tensor | None = None

    def again(self) -> Tensor:
        """The tensor; several backwards that need it at a time share one."""
        tensor, self.held = self.made(), None
        if tensor is None:
            check_version(self.source, self.version)
            device, on, dtype = self.autocast
            with torch.no_grad(), torch.autocast(device, enabled=on, dtype=dtype):
                tensor = self.make(self.source)
            self.made = weakref.ref(tensor)
        return tensor

    def on_the_way(self) -> Tensor:
        """The tensor, held until the backward of what is made of it needs it too."""
        self.held = self.again()
        return self.held


@dataclass
class _TapeEntry:
    storage: StorageWeakRef
    out: Callable[[], Tensor | None]
    version: int
    what: Recomputation | ReluMask

    def is_about(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` shares the memory of the noted one, and nothing was written to that since."""
        first = self.out()  # what autograd saves of an operation's output has a version counter of its own
        version = tensor._version if first is None else first._version
        return not self.storage.expired() and version == self.version


class RecomputeTape:
    """A context: notes how tensors can be made again, and looks every tensor up that autograd saves inside."""

    def __init__(self) -> None:
        self.entries: dict[int, _TapeEntry] = {}
        self.pair = (self._pack, _unpack_saved)
        self.hooks = torch.autograd.graph.saved_tensors_hooks(*self.pair)

    def __enter__(self) -> RecomputeTape:
        self.before = getattr(_TAPES, "active", None)
        _TAPES.active = self
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)
        _TAPES.active = self.before
        self.entries.clear()

    def note(self, out: Tensor, make: Callable[[Tensor], Tensor], source: Tensor) -> None:
        """``out`` is ``make(source)``."""
        kind = out.device.type
        if kind == "meta":
            return
        autocast = (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        remake = Recomputation(make, source.detach(), out.stride(), autocast, source._version)
        self._enter(out, remake)

    def way_to(self, tensor: Tensor) -> Recomputation | None:
        """How to make the tensor again, where that is noted."""
        entry = self.entries.get(tensor.untyped_storage()._cdata)
        if entry is None or entry.out() is not tensor or not entry.is_about(tensor):
            return None
        return entry.what if isinstance(entry.what, Recomputation) else None

    def note_next(self, out: Tensor, step: Callable[[Tensor], Tensor], first: Recomputation) -> None:
        """``out`` is ``step`` of what ``first`` makes."""
        self._enter(
            out,
            Recomputation(
                lambda _: step(first.on_the_way()), first.source, out.stride(), first.autocast, first.version
            ),
        )

    def cast(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """``tensor`` in another type; what can be made again can be made again in that type too."""
        if tensor.dtype == dtype:
            return tensor
        out, first = tensor.to(dtype), self.way_to(tensor)
        if first is not None:
            self.note_next(out, lambda x: x.to(dtype), first)
        return out

    def note_gate(self, out: Tensor, slot: ReluMask) -> None:
        """Whoever saves ``out`` makes the gate's own bits superfluous."""
        self._enter(out, slot)

    def _enter(self, out: Tensor, what: Recomputation | ReluMask) -> None:
        storage = out.untyped_storage()
        if out.storage_offset() == 0 and storage.nbytes() == out.numel() * out.element_size():
            self.entries[storage._cdata] = _TapeEntry(StorageWeakRef(storage), weakref.ref(out), out._version, what)

    def _pack(self, tensor: Tensor) -> Any:
        storage = tensor.untyped_storage()
        entry = self.entries.get(storage._cdata)
        if entry is None or not entry.is_about(tensor):
            return _SavedTensor(tensor.detach(), tensor._version)
        if isinstance(entry.what, ReluMask):
            if tensor.shape == entry.what.shape:
                entry.what.take(tensor.detach())
            return _SavedTensor(tensor.detach(), tensor._version)
        return entry.what, tensor.shape, tensor.stride(), tensor.storage_offset()


class _SavedTensor(NamedTuple):
    """A saved tensor without its place in the graph: a graph that holds itself is never freed, and Python can't see it."""

    tensor: Tensor
    version: int


def _unpack_saved(packed: Any) -> Tensor:
    if isinstance(packed, _SavedTensor):
        check_version(packed.tensor, packed.version)
        return packed.tensor
    remake, shape, stride, offset = packed
    tensor = remake.again()
    if tensor.stride() != remake.stride:  # it came out in another layout: bring it into the first one
        tensor = torch.empty_strided(tensor.shape, remake.stride, dtype=tensor.dtype, device=tensor.device).copy_(
            tensor
        )
    return tensor.as_strided(shape, stride, offset)
