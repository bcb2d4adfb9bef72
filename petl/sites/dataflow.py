"""Who takes what a module returns: seen while a model runs, function call by function call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class Dataflow(TorchFunctionMode):
    """Notes, for the tensors that modules return, the modules inside which any function takes them.

    ``enter`` and ``leave`` are called at the borders of each module. Reading a tensor's shape takes nothing of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = [""]
        self.made: dict[str, list[Tensor]] = {}
        self.takers: dict[int, list[str]] = {}
        self.seen: list[Any] = []  # everything that ``takers`` names by its id: kept alive, so that no id is used twice
        self.entered: dict[str, list[list[Tensor]]] = {}
        self.clock = 0
        self.began: dict[str, list[int]] = {}
        self.ended: dict[str, list[int]] = {}
        self.writes: list[tuple[int, Tensor]] = []

    def enter(self, name: str, given: list[Tensor]) -> None:
        self.stack.append(name)
        self.entered.setdefault(name, []).append(given)
        self.began.setdefault(name, []).append(self.clock)

    def leave(self, name: str, output: Any) -> None:
        self.stack.pop()
        self.ended.setdefault(name, []).append(self.clock)
        if isinstance(output, Tensor):
            self.made.setdefault(name, []).append(output)

    def end(self, output: Any) -> None:
        """The model's own output is taken by nobody inside."""
        for leaf in tree_leaves(output):
            self._take(leaf, "")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("__get__", "size", "dim", "numel"):
            return func(*args, **(kwargs or {}))
        self.clock += 1
        given = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        for leaf in given:
            self._take(leaf, self.stack[-1])
        before = [leaf._version for leaf in given]
        out = func(*args, **(kwargs or {}))
        self.writes += [(self.clock, t) for t, version in zip(given, before, strict=True) if t._version > version]
        return out

    def _take(self, leaf: Any, taker: str) -> None:
        self.seen.append(leaf)
        self.takers.setdefault(id(leaf), []).append(taker)

    def all_takers(self) -> dict[str, list[set[str]]]:
        """For each module, and each tensor that it returns in its calls, the modules that take it."""
        return {name: [{*self.takers.get(id(output), [])} for output in made] for name, made in self.made.items()}

    def sole_takers(self) -> Iterator[tuple[str, str]]:
        """(a, b) where module b, called once, alone takes what module a, called once, returns, as its input.

        A module that works in place takes its own output. Where anything writes to a's input before b runs, a can't wait
        for b, so they are left out.
        """
        for name, outputs in self.made.items():
            takers = {taker for output in outputs for taker in self.takers.get(id(output), [])} - {name}
            if len(outputs) != 1 or len(self.entered[name]) != 1 or len(takers) != 1:
                continue
            (taker,) = takers
            calls = self.entered.get(taker, [])
            if len(calls) == 1 and any(given is outputs[0] for given in calls[0][:1]) and self._may_wait(name, taker):
                yield name, taker

    def overwriting(self) -> set[str]:
        """The modules in which something writes to what the module was given."""
        calls = (
            (n, *call) for n in self.ended for call in zip(self.began[n], self.ended[n], self.entered[n], strict=True)
        )
        return {name for name, begin, end, given in calls if self._written(begin, end, given)}

    def _written(self, begin: int, end: int, given: list[Tensor]) -> bool:
        """Whether anything wrote to these tensors in that time."""
        storages = {tensor.untyped_storage()._cdata for tensor in given}
        return any(begin < when <= end and t.untyped_storage()._cdata in storages for when, t in self.writes)

    def _may_wait(self, name: str, taker: str) -> bool:
        (end,), (begin,), (given,) = self.ended[name], self.began[taker], self.entered[name]
        return not self._written(end, begin, given)
