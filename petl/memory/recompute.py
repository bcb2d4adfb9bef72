"""Recomputes saved tensors in the backward instead of keeping them: a tape records how, and hooks look every saved tensor up.

A norm or activation keeps its input for its own backward. A layer after it that saves its output (a linear layer, a
convolution, a product) would keep a second tensor. Where the tape knows how that output is computed, torch's saved-tensor
hooks keep a reference to this record instead.
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

from petl.kernels.autocast import compute_dtype
from petl.kernels.relu_mask import ReluMask
from petl.kernels.tensor_version import check_version
from petl.memory.observers import saved_tensor_hooks

_ACTIVE_TAPE = threading.local()


def active_tape() -> RecomputeTape | None:
    """Returns the tape of the forward that runs in this thread, or None.

    None under torch.compile, and inside a checkpointed block, whose two runs must save the same tensors: the second one runs
    when this forward is over.
    """
    tape = None if torch.compiler.is_compiling() else getattr(_ACTIVE_TAPE, "tape", None)
    return tape if tape is not None and saved_tensor_hooks() == tape.pair else None


def in_compute_dtype(x: Tensor) -> Tensor:
    """Returns the input in the dtype in which the layer computes, recorded on the tape where ``x`` is."""
    tape = active_tape()
    return x if tape is None else tape.cast(x, compute_dtype(x))


@dataclass
class Recomputation:
    """How to compute a tensor again: the function, its input, and the autocast state of the forward."""

    function: Callable[[Tensor], Tensor]
    source: Tensor
    stride: tuple[int, ...]
    autocast: tuple[str, bool, torch.dtype]
    version: int = 0
    recent: Callable[[], Tensor | None] = field(default=lambda: None)
    kept: Tensor | None = None

    def tensor(self) -> Tensor:
        """Returns the tensor; several backwards that need it at the same time share one."""
        tensor, self.kept = self.recent(), None
        if tensor is None:
            check_version(self.source, self.version)
            device, is_on, dtype = self.autocast
            with torch.no_grad(), torch.autocast(device, enabled=is_on, dtype=dtype):
                tensor = self.function(self.source)
            self.recent = weakref.ref(tensor)
        return tensor

    def kept_for_next(self) -> Tensor:
        """Returns the tensor, and keeps it until its own backward asks: that of the next step runs first."""
        self.kept = self.tensor()
        return self.kept


@dataclass
class _TapeEntry:
    storage: StorageWeakRef
    output: Callable[[], Tensor | None]
    version: int
    record: Recomputation | ReluMask

    def is_about(self, tensor: Tensor) -> bool:
        """Returns whether ``tensor`` shares the memory of the recorded one, and nothing was written to that since."""
        output = self.output()  # what autograd saves of an operation's output has a version counter of its own
        version = tensor._version if output is None else output._version
        return not self.storage.expired() and version == self.version


class RecomputeTape:
    """A context: records how tensors are computed, and looks up every tensor that autograd saves inside."""

    def __init__(self) -> None:
        self.entries: dict[int, _TapeEntry] = {}
        self.pair = (self._pack, _unpack)
        self.hooks = torch.autograd.graph.saved_tensors_hooks(*self.pair)

    def __enter__(self) -> RecomputeTape:
        self.before = getattr(_ACTIVE_TAPE, "tape", None)
        _ACTIVE_TAPE.tape = self
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)
        _ACTIVE_TAPE.tape = self.before
        self.entries.clear()

    def record(self, out: Tensor, function: Callable[[Tensor], Tensor], source: Tensor) -> None:
        """Records that ``out`` is ``function(source)``."""
        device = out.device.type
        if device == "meta":
            return
        autocast = (device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        self._add(out, Recomputation(function, source.detach(), out.stride(), autocast, source._version))

    def record_step(self, out: Tensor, step: Callable[[Tensor], Tensor], first: Recomputation) -> None:
        """Records that ``out`` is ``step`` of the tensor that ``first`` computes."""
        function = _after(step, first)
        self._add(out, Recomputation(function, first.source, out.stride(), first.autocast, first.version))

    def record_mask(self, out: Tensor, mask: ReluMask) -> None:
        """Records that ``out`` is a ReLU's output: if a layer saves it, the mask reads it and drops its own bits."""
        self._add(out, mask)

    def lookup(self, tensor: Tensor) -> Recomputation | None:
        """Returns how the tensor can be computed again, if that is recorded."""
        entry = self.entries.get(tensor.untyped_storage()._cdata)
        if entry is None or entry.output() is not tensor or not entry.is_about(tensor):
            return None
        return entry.record if isinstance(entry.record, Recomputation) else None

    def cast(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Returns ``tensor`` in another dtype, recorded as a step where ``tensor`` itself is recorded."""
        if tensor.dtype == dtype:
            return tensor
        out, first = tensor.to(dtype), self.lookup(tensor)
        if first is not None:
            self.record_step(out, lambda x: x.to(dtype), first)
        return out

    def _add(self, out: Tensor, record: Recomputation | ReluMask) -> None:
        storage = out.untyped_storage()
        is_whole = out.storage_offset() == 0 and storage.nbytes() == out.numel() * out.element_size()
        if is_whole:
            self.entries[storage._cdata] = _TapeEntry(StorageWeakRef(storage), weakref.ref(out), out._version, record)

    def _pack(self, tensor: Tensor) -> Any:
        """Called by autograd with each tensor that it saves; what it returns is kept instead."""
        entry = self.entries.get(tensor.untyped_storage()._cdata)
        if entry is None or not entry.is_about(tensor):
            return _SavedTensor(tensor.detach(), tensor._version)
        if isinstance(entry.record, ReluMask):
            if tensor.shape == entry.record.shape:
                entry.record.use_output(tensor.detach())
            return _SavedTensor(tensor.detach(), tensor._version)
        return entry.record, tensor.shape, tensor.stride(), tensor.storage_offset()


class _SavedTensor(NamedTuple):
    """A saved tensor outside the graph: a graph that refers to itself is never freed, and Python's collector can't see it."""

    tensor: Tensor
    version: int


def _after(step: Callable[[Tensor], Tensor], first: Recomputation) -> Callable[[Tensor], Tensor]:
    """Returns a function that computes the tensor of ``first`` and ``step`` of it; it ignores its argument."""
    return lambda _: step(first.kept_for_next())


def _unpack(packed: Any) -> Tensor:
    """Called by autograd when the backward needs a saved tensor."""
    if isinstance(packed, _SavedTensor):
        check_version(packed.tensor, packed.version)
        return packed.tensor
    recomputation, shape, stride, offset = packed
    tensor = recomputation.tensor()
    if tensor.stride() != recomputation.stride:  # computed in another memory layout
        laid_out = torch.empty_strided(tensor.shape, recomputation.stride, dtype=tensor.dtype, device=tensor.device)
        tensor = laid_out.copy_(tensor)
    return tensor.as_strided(shape, stride, offset)
