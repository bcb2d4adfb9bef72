"""Who takes what a module returns: seen while a model runs, function call by function call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class Flow(TorchFunctionMode):
    """Notes, for the tensors that modules return, the modules inside which any function takes them.

    ``enter`` and ``leave`` are called at the borders of each module. Reading a tensor's shape takes nothing of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = [""]
        self.made: dict[str, list[Tensor]] = {}
        self.takers: dict[int, list[str]] = {}
        self.entered: dict[str, list[list[Tensor]]] = {}

    def enter(self, name: str, given: list[Tensor]) -> None:
        self.stack.append(name)
        self.entered.setdefault(name, []).append(given)

    def leave(self, name: str, output: Any) -> None:
        self.stack.pop()
        if isinstance(output, Tensor):
            self.made.setdefault(name, []).append(output)  # kept alive, so that no id is used twice

    def end(self, output: Any) -> None:
        """The model's own output is taken by nobody inside."""
        for leaf in tree_leaves(output):
            self.takers.setdefault(id(leaf), []).append("")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") not in ("__get__", "size", "dim", "numel"):
            for leaf in tree_leaves((args, kwargs or {})):
                if isinstance(leaf, Tensor):
                    self.takers.setdefault(id(leaf), []).append(self.stack[-1])
        return func(*args, **(kwargs or {}))

    def all_takers(self) -> dict[str, list[set[str]]]:
        """For each module, and each tensor that it returns in its calls, the modules that take it."""
        return {name: [{*self.takers.get(id(output), [])} for output in made] for name, made in self.made.items()}

    def sole_takers(self) -> Iterator[tuple[str, str]]:
        """(a, b) where module b, called once, alone takes what module a, called once, returns, as its input.

        A module that works in place takes its own output.
        """
        for name, outputs in self.made.items():
            takers = {taker for output in outputs for taker in self.takers.get(id(output), [])} - {name}
            if len(outputs) != 1 or len(self.entered[name]) != 1 or len(takers) != 1:
                continue
            (taker,) = takers
            calls = self.entered.get(taker, [])
            if len(calls) == 1 and any(given is outputs[0] for given in calls[0][:1]):
                yield name, taker
