"""Records the calls of modules in a forward: when each begins and ends, what goes in and what comes out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map


@dataclass(eq=False)
class ModuleCall:
    """One call of a module: its arguments and what it returned, with each tensor as the recorder keeps it.

    ``begin`` and ``end`` are times of the recorder's clock; ``end`` is 0 where the module raised an error.
    """

    name: str
    module: nn.Module
    begin: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    end: int = 0
    returned: Any = None


@dataclass
class CallRecorder:
    """The calls of a forward in the order in which they begin; ``keep`` says what is kept of each tensor.

    ``clock`` ticks when a call begins and when it ends. Whoever watches single operations as well lets it tick for each of them.
    """

    keep: Callable[[Tensor], Any]
    calls: list[ModuleCall] = field(default_factory=list)
    clock: int = 0
    _open: list[ModuleCall] = field(default_factory=list)

    @property
    def current(self) -> str:
        """Returns the name of the innermost module that runs now; empty for the model itself, and where none runs."""
        return self._open[-1].name if self._open else ""

    @property
    def finished(self) -> list[ModuleCall]:
        """Returns the calls that ended without an error, in the order in which they ended."""
        return sorted((call for call in self.calls if call.end), key=lambda call: call.end)

    def tick(self) -> int:
        """Advances the clock; returns the new time."""
        self.clock += 1
        return self.clock

    @contextlib.contextmanager
    def watching(self, modules: Iterable[tuple[str, nn.Module]]) -> Iterator[None]:
        """Inside, the calls of these modules are recorded under these names."""
        handles = []
        try:
            for name, module in modules:
                handles.append(module.register_forward_pre_hook(self._begin(name), with_kwargs=True))
                handles.append(module.register_forward_hook(self._end))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kept = {key: self._kept(value) for key, value in kwargs.items()}
            call = ModuleCall(name, module, self.tick(), tuple(map(self._kept, args)), kept)
            self.calls.append(call)
            self._open.append(call)

        return hook

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        while (call := self._open.pop()).module is not module:
            pass  # an inner call that raised an error, which the module caught
        call.end, call.returned = self.tick(), self._kept(output)

    def _kept(self, tree: Any) -> Any:
        if isinstance(tree, Tensor):  # mostly; a tree costs more time
            return self.keep(tree)
        return tree_map(lambda leaf: self.keep(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def kept_in(tree: Any, kind: type) -> list[Any]:
    """Returns what a recorder kept of the tensors in the tree, in order."""
    return [tree] if isinstance(tree, kind) else [leaf for leaf in tree_leaves(tree) if isinstance(leaf, kind)]
