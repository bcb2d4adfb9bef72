"""Takes a snapshot of a model's structure, and lists the undos of later changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

RECORD = "_petl_record"  # the attribute of a model that holds its record
ADDED_BY_PEFT = "peft_config"  # the attribute by which peft knows a model that it has changed
_HANDLED = {"_modules", "_parameters", "_buffers", "training", RECORD}


class _ABSENT:
    """Stands for a slot that wasn't there; a class, because copies and pickles of a record keep that one."""


@dataclass
class Undo:
    """The old value of one slot of a module: its class, an attribute, or one of its three dicts."""

    module: nn.Module
    slot: str
    value: Any

    def adds(self, slot: str) -> bool:
        """Returns whether the slot is this one, and wasn't there."""
        return self.slot == slot and self.value is _ABSENT

    def undo(self) -> None:
        """Restores the old value."""
        if self.slot == "__class__":
            self.module.__class__ = self.value
        elif self.slot in ("_modules", "_parameters", "_buffers"):
            entries = vars(self.module)[self.slot]
            entries.clear()
            entries.update(self.value)
        elif self.value is _ABSENT:
            vars(self.module).pop(self.slot, None)
        else:
            vars(self.module)[self.slot] = self.value


class Snapshot:
    """The structure of a model by reference: classes, children, parameters, buffers, plain attributes; no copies."""

    def __init__(self, model: nn.Module):
        self.before = [(module, _structure(module)) for module in model.modules()]

    def changes(self) -> list[Undo]:
        """Returns the undos of everything that has changed since the snapshot."""
        return [change for module, old in self.before for change in _differences(module, old)]

    def children(self) -> list[Undo]:
        """Returns undos for the children of all modules: the user may replace one later, such as the classifier."""
        undos = [Undo(module, "_modules", old["_modules"]) for module, old in self.before if old["_modules"]]
        model, old = self.before[0]
        return [*undos, *(Undo(model, key, old[key]) for key in ("num_classes",) if key in old)]

    def restore(self) -> None:
        """Restores the whole structure."""
        for change in self.changes():
            change.undo()


def _structure(module: nn.Module) -> dict[str, Any]:
    """Returns a module's attributes, copies of its three dicts, and its class, by slot."""
    plain = {key: value for key, value in vars(module).items() if key not in _HANDLED}
    dicts = {key: dict(vars(module)[key]) for key in ("_modules", "_parameters", "_buffers")}
    return {**plain, **dicts, "__class__": type(module)}


def _differences(module: nn.Module, old: dict[str, Any]) -> list[Undo]:
    """Returns the undos that restore the module's old structure."""
    new = _structure(module)
    changed = [key for key in old if not _same(old[key], new.get(key, _ABSENT))]
    added = [key for key in new if key not in old]
    return [*(Undo(module, key, old[key]) for key in changed), *(Undo(module, key, _ABSENT) for key in added)]


def _same(one: Any, other: Any) -> bool:
    """Returns whether both are the same object, or dicts of the same objects in the same order."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(one[key] is other[key] for key in one)
    return one is other
