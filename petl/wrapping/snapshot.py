"""The structure of a model at one time, and the undos of what has changed since."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

RECORD = "_petl_record"  # the attribute of a model that holds its record
_HANDLED = {"_modules", "_parameters", "_buffers", "training", RECORD}
_ABSENT = object()


@dataclass
class Undo:
    """One thing about a module that is to be put back: its class, an attribute, or one of its three dicts."""

    module: nn.Module
    slot: str
    value: Any

    def undo(self) -> None:
        """Puts it back."""
        if self.slot == "__class__":
            self.module.__class__ = self.value
        elif self.slot in ("_modules", "_parameters", "_buffers"):
            there = vars(self.module)[self.slot]
            there.clear()
            there.update(self.value)
        elif self.value is _ABSENT:
            vars(self.module).pop(self.slot, None)
        else:
            vars(self.module)[self.slot] = self.value


class Snapshot:
    """The structure of a model by reference: classes, children, parameters, buffers, plain attributes; no copies."""

    def __init__(self, model: nn.Module):
        self.before = [(module, _structure(module)) for module in model.modules()]

    def changes(self) -> list[Undo]:
        """Returns the undos of everything that has become different since."""
        return [change for module, then in self.before for change in _differences(module, then)]

    def children(self) -> list[Undo]:
        """Returns the undos of what may be replaced later, such as a classifier that the user resets after ``wrap``."""
        nested = [Undo(module, "_modules", then["_modules"]) for module, then in self.before if then["_modules"]]
        top, then = self.before[0]
        return [*nested, *(Undo(top, key, then[key]) for key in ("num_classes",) if key in then)]

    def restore(self) -> None:
        """Puts everything back as it was."""
        for change in self.changes():
            change.undo()


def _structure(module: nn.Module) -> dict[str, Any]:
    plain = {key: value for key, value in vars(module).items() if key not in _HANDLED}
    dicts = {key: dict(vars(module)[key]) for key in ("_modules", "_parameters", "_buffers")}
    return {**plain, **dicts, "__class__": type(module)}


def _differences(module: nn.Module, then: dict[str, Any]) -> list[Undo]:
    now = _structure(module)
    keys = [key for key in then if not _same(then[key], now.get(key, _ABSENT))]
    return [Undo(module, key, then[key]) for key in keys] + [Undo(module, k, _ABSENT) for k in now if k not in then]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(one[key] is other[key] for key in one)
    return one is other
