"""The state of a checkpointed block: what its second run, in the backward, must find as the first one did, and must not change.

The second run computes the same as the first one: from the same inputs and parameters, which no code may have written to, in
the same training modes, and from the values that the first run's changed buffers and attributes had before it. What the
second run writes, running statistics above all, is undone: the first run has written it already.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from petl.errors import StateError
from petl.graft.classes import base_class
from petl.kernels.tensor_version import check_version

CLASSES_CHANGED = "the model has been unwrapped, merged or given other classes since the forward"
_ABSENT = object()
_MODULE_TABLES = {"_parameters", "_buffers", "_modules"}


class FirstRun:
    """The state of ``block`` and of its arguments (``leaves``) before its first run in a training step."""

    def __init__(self, block: nn.Module, leaves: Iterable[Any]):
        self.block, parts = block, [*block.modules()]
        self.inputs = [(leaf, leaf._version) for leaf in leaves if isinstance(leaf, Tensor)]
        named = [(part, leaf, param) for part in parts for leaf, param in part._parameters.items()]
        self.parameters = [(part, leaf, param, param._version) for part, leaf, param in named if param is not None]
        self.buffers = [_BufferState(part, leaf) for part in parts for leaf in part._buffers]
        self.attributes = [(part, _attributes(part)) for part in parts]
        self.modes = [(part, type(part), part.training) for part in parts]
        self.changes: list[tuple[nn.Module, str, Any]] = []
        self.is_over = False

    def end(self) -> None:
        """Ends the first run: of the state before it, only what it has changed is kept."""
        if any(tensor._version != version for tensor, version in self.inputs):
            raise StateError(
                f"memory='min' can't run {base_class(self.block).__name__} again in the backward: it writes to its own input; "
                f"wrap the model with memory='lean', or make that operation return a new tensor"
            )
        self.buffers = [buffer for buffer in self.buffers if buffer.is_changed()]
        before_and_after = [(part, before, _attributes(part)) for part, before in self.attributes]
        self.changes = [
            (part, key, before.get(key, _ABSENT))
            for part, before, after in before_and_after
            for key in before.keys() | after.keys()
            if before.get(key, _ABSENT) is not after.get(key, _ABSENT)
        ]
        self.attributes, self.is_over = [], True

    @contextlib.contextmanager
    def repeated(self) -> Iterator[None]:
        """Yields around every run of the block; later runs find the state before the first one, and leave no change."""
        if not self.is_over:
            yield
            return
        self._check()
        with self._own_parameters(), self._attributes_before(), self._buffers_before(), self._same_modes():
            yield

    def _check(self) -> None:
        """Raises if the block can't run again: other classes, or tensors that were written to."""
        if any(type(part) is not cls for part, cls, _ in self.modes):
            name = base_class(self.block).__name__
            raise StateError(f"{name} can't run again for this backward: {CLASSES_CHANGED}; run the backward first")
        for tensor, version in (*self.inputs, *(entry[2:] for entry in self.parameters)):
            check_version(tensor, version)

    @contextlib.contextmanager
    def _own_parameters(self) -> Iterator[None]:
        """Puts the first run's parameters in place; torch.func.functional_call exchanges parameters for its forward."""
        now = [(part, leaf, part._parameters[leaf], param) for part, leaf, param, _ in self.parameters]
        exchanged = [entry for entry in now if entry[2] is not entry[3]]
        try:
            for part, leaf, _, param in exchanged:
                part._parameters[leaf] = param
            yield
        finally:
            for part, leaf, present, _ in exchanged:
                part._parameters[leaf] = present

    @contextlib.contextmanager
    def _attributes_before(self) -> Iterator[None]:
        present = [(part, key, vars(part).get(key, _ABSENT)) for part, key, _ in self.changes]
        _set_attributes(self.changes)
        try:
            yield
        finally:
            _set_attributes(present)

    @contextlib.contextmanager
    def _buffers_before(self) -> Iterator[None]:
        present = [buffer.restore() for buffer in self.buffers]
        try:
            yield
        finally:
            for buffer, tensor in zip(self.buffers, present, strict=True):
                buffer.part._buffers[buffer.leaf] = tensor

    @contextlib.contextmanager
    def _same_modes(self) -> Iterator[None]:
        present = [(part, part.training) for part, _, _ in self.modes]
        try:
            for part, _, mode in self.modes:
                part.training = mode
            yield
        finally:
            for part, mode in present:
                part.training = mode


class _BufferState:
    """A buffer of ``part``, and its values before the first run."""

    def __init__(self, part: nn.Module, leaf: str):
        self.part, self.leaf, self.tensor = part, leaf, part._buffers[leaf]
        self.version = None if self.tensor is None else self.tensor._version
        self.before = None if self.tensor is None else self.tensor.detach().clone()

    def is_changed(self) -> bool:
        """Returns whether the first run has written to the buffer, or may have: batch norm kernels don't count their writes."""
        present = self.part._buffers.get(self.leaf)
        statistics = self.part.training and self.leaf in ("running_mean", "running_var")
        return statistics or present is not self.tensor or (present is not None and present._version != self.version)

    def restore(self) -> Tensor | None:
        """Puts a copy of the values before the first run in the buffer's place; returns the present buffer."""
        present = self.part._buffers.get(self.leaf)
        self.part._buffers[self.leaf] = None if self.before is None else self.before.clone()
        return present


def _attributes(part: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(part).items() if key not in _MODULE_TABLES}


def _set_attributes(values: Iterable[tuple[nn.Module, str, Any]]) -> None:
    for part, key, value in values:
        if value is _ABSENT:
            vars(part).pop(key, None)
        else:
            vars(part)[key] = value
