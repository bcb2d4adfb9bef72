"""Which modules consume what a module returns: seen while a model runs, function call by function call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from petl.sites.calls import CallRecorder, ModuleCall, kept_in


@dataclass(frozen=True, eq=False)
class SeenTensor:
    """A tensor, which is kept alive, and the shape that it had when it was seen."""

    tensor: Tensor
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> SeenTensor:
        return cls(tensor, tuple(tensor.shape))


def seen_tensors(tree: Any) -> list[SeenTensor]:
    return kept_in(tree, SeenTensor)


class Dataflow(TorchFunctionMode):
    """Notes, for the tensors that modules return, the modules inside which any function reads them.

    ``recorder`` records the modules' calls meanwhile. Reading a tensor's shape consumes nothing of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.recorder = CallRecorder(SeenTensor.of)
        self.readers: dict[int, list[str]] = {}  # id of a tensor -> names of modules
        self.alive: list[Any] = []  # everything that ``readers`` names by its id: no id is used twice
        self.writes: list[tuple[int, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("__get__", "size", "dim", "numel"):
            return func(*args, **(kwargs or {}))
        now = self.recorder.tick()
        inputs = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        for tensor in inputs:
            self._read(tensor, self.recorder.current)
        before = [tensor._version for tensor in inputs]
        out = func(*args, **(kwargs or {}))
        self.writes += [(now, t) for t, version in zip(inputs, before, strict=True) if t._version > version]
        return out

    def end(self, output: Any) -> None:
        """Returns the model's own output is read by no module inside."""
        for leaf in tree_leaves(output):
            self._read(leaf, "")

    def _read(self, leaf: Any, reader: str) -> None:
        self.alive.append(leaf)
        self.readers.setdefault(id(leaf), []).append(reader)

    def consumers(self) -> dict[str, list[set[str]]]:
        """For each module, and each tensor that it returns in its calls, the modules that consume it."""
        return {
            name: [{*self.readers.get(id(output), [])} for output in outputs]
            for name, outputs in self._produced().items()
        }

    def sole_consumers(self) -> Iterator[tuple[str, str]]:
        """(a, b) where module b, called once, alone consumes what module a, called once, returns, as its input.

        A module that works in place consumes its own output. Where anything writes to a's input before b runs, a can't wait
        for b, so they are left out.
        """
        calls = self._calls_by_name()
        for name, outputs in self._produced().items():
            consumers = {reader for output in outputs for reader in self.readers.get(id(output), [])} - {name}
            if len(outputs) != 1 or len(calls[name]) != 1 or len(consumers) != 1:
                continue
            (consumer,) = consumers
            received = calls.get(consumer, [])
            if len(received) != 1 or not any(t is outputs[0] for t in _received(received[0])[:1]):
                continue
            if not self._written(calls[name][0].end, received[0].begin, _received(calls[name][0])):
                yield name, consumer

    def overwriting(self) -> set[str]:
        """Returns the modules in which something writes to what the module received."""
        finished = self.recorder.finished
        return {call.name for call in finished if self._written(call.begin, call.end, _received(call))}

    def _produced(self) -> dict[str, list[Tensor]]:
        """For each module, the single tensors that it returned in its calls."""
        produced: dict[str, list[Tensor]] = {}
        for call in self.recorder.finished:
            if isinstance(call.returned, SeenTensor):
                produced.setdefault(call.name, []).append(call.returned.tensor)
        return produced

    def _calls_by_name(self) -> dict[str, list[ModuleCall]]:
        calls: dict[str, list[ModuleCall]] = {}
        for call in self.recorder.calls:
            calls.setdefault(call.name, []).append(call)
        return calls

    def _written(self, begin: int, end: int, tensors: list[Tensor]) -> bool:
        """Returns whether anything wrote to these tensors in that time."""
        storages = {tensor.untyped_storage()._cdata for tensor in tensors}
        return any(begin < when <= end and t.untyped_storage()._cdata in storages for when, t in self.writes)


class ParameterReads(TorchDispatchMode):
    """Notes which of the named tensors any operation reads."""

    def __init__(self, tensors: Iterator[tuple[str, Tensor]]):
        super().__init__()
        self.names = {id(tensor): name for name, tensor in tensors}
        self.read: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.read.update(self.names[id(t)] for t in tree_leaves((args, kwargs or {})) if id(t) in self.names)
        quick = None if kwargs else _normed(func, args)
        return func(*args, **(kwargs or {})) if quick is None else quick


def _normed(func: Any, args: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    """Returns what a norm layer returns on the meta device; torch works that out in a dozen operations: half a survey's time."""
    if func is torch.ops.aten.native_batch_norm.default and not args[5] and args[0].is_meta:  # running statistics
        return torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)
    if func is torch.ops.aten.native_layer_norm.default and args[0].is_meta and args[0].dtype is torch.float32:
        kept = args[0].dim() - len(args[1])
        if tuple(args[0].shape[kept:]) != tuple(args[1]):
            return None  # torch has the error
        moments = args[0].new_empty((*args[0].shape[:kept], *[1] * len(args[1])))
        return torch.empty_like(args[0], memory_format=torch.contiguous_format), moments, moments.clone()
    return None


def _received(call: ModuleCall) -> list[Tensor]:
    return [seen.tensor for seen in seen_tensors((call.args, call.kwargs))]
