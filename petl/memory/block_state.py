"""What a block must find when it runs a second time in the backward, and what it must leave alone.

The second run computes what the first one did: from the same inputs and parameters, which nobody may have written to, in the
same modes, and from the buffers and attributes that it changed as they were then. What it writes itself, running statistics
above all, the first run has written already.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from petl.errors import StateError
from petl.graft.classes import base_class
from petl.kernels.low_rank import unchanged

GONE = "the model has been unwrapped, merged or given other classes since the forward"
_ABSENT = object()
_APART = {"_parameters", "_buffers", "_modules"}


class FirstRun:
    """The state of ``block`` and of its arguments before its first run, in a training step."""

    def __init__(self, block: nn.Module, leaves: Iterable[Any]):
        self.block = block
        self.given = [(leaf, leaf._version) for leaf in leaves if isinstance(leaf, Tensor)]
        self.parameters = [
            (part, leaf, p, p._version)
            for part in block.modules()
            for leaf, p in part._parameters.items()
            if p is not None
        ]
        self.buffers = [
            _Buffer(part, leaf, tensor) for part in block.modules() for leaf, tensor in part._buffers.items()
        ]
        self.attributes = [(part, _plain(part)) for part in block.modules()]
        self.modes = [(part, type(part), part.training) for part in block.modules()]
        self.changes: list[tuple[nn.Module, str, Any]] = []
        self.is_over = False

    def end(self) -> None:
        """The first run is over: keep of the state before it only what it has changed."""
        if any(tensor._version != version for tensor, version in self.given):
            raise StateError(
                f"memory='min' can't run {base_class(self.block).__name__} again in the backward: it writes to its own input; "
                f"wrap the model with memory='lean', or make that operation return a new tensor"
            )
        self.buffers = [buffer for buffer in self.buffers if buffer.is_changed()]
        pairs = [(part, before, _plain(part)) for part, before in self.attributes]
        self.changes = [
            (part, key, before.get(key, _ABSENT))
            for part, before, now in pairs
            for key in before.keys() | now.keys()
            if before.get(key, _ABSENT) is not now.get(key, _ABSENT)
        ]
        self.attributes, self.is_over = [], True

    @contextlib.contextmanager
    def repeated(self) -> Iterator[None]:
        """Around every run of the block: after the first, as that one found everything, and leaving everything as it is."""
        if not self.is_over:
            yield
            return
        if any(type(part) is not kind for part, kind, _ in self.modes):
            kind = base_class(self.block).__name__
            raise StateError(f"{kind} can't run again for this backward: {GONE}; run the backward first")
        for tensor, version in (*self.given, *(entry[2:] for entry in self.parameters)):
            unchanged(tensor, version)
        swapped = [(part, leaf, part._parameters[leaf], p) for part, leaf, p, _ in self.parameters]
        swapped = [
            entry for entry in swapped if entry[2] is not entry[3]
        ]  # torch.func.functional_call puts others there
        now = [(part, key, vars(part).get(key, _ABSENT)) for part, key, _ in self.changes]
        kept = [buffer.put_back() for buffer in self.buffers]
        modes = [(part, part.training) for part, _, _ in self.modes]
        _set(self.changes)
        try:
            for part, _, mode in self.modes:
                part.training = mode
            for part, leaf, _, then in swapped:
                part._parameters[leaf] = then
            yield
        finally:
            for part, leaf, present, _ in swapped:
                part._parameters[leaf] = present
            for part, mode in modes:
                part.training = mode
            _set(now)
            for buffer, tensor in zip(self.buffers, kept, strict=True):
                buffer.part._buffers[buffer.leaf] = tensor


class _Buffer:
    """A buffer of ``part``, and its values before the first run."""

    def __init__(self, part: nn.Module, leaf: str, tensor: Tensor | None):
        self.part, self.leaf, self.tensor = part, leaf, tensor
        self.version = None if tensor is None else tensor._version
        self.before = None if tensor is None else tensor.detach().clone()

    def is_changed(self) -> bool:
        """Whether the first run has written to the buffer, or may have: kernels of batch norm leave no mark."""
        now = self.part._buffers.get(self.leaf)
        statistics = self.part.training and self.leaf in ("running_mean", "running_var")
        return statistics or now is not self.tensor or (now is not None and now._version != self.version)

    def put_back(self) -> Tensor | None:
        """Put a copy of the values before the first run in the buffer's place, and return what stands there."""
        now = self.part._buffers.get(self.leaf)
        self.part._buffers[self.leaf] = None if self.before is None else self.before.clone()
        return now


def _plain(part: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(part).items() if key not in _APART}


def _set(values: Iterable[tuple[nn.Module, str, Any]]) -> None:
    for part, key, value in values:
        if value is _ABSENT:
            vars(part).pop(key, None)
        else:
            vars(part)[key] = value
