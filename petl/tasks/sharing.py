"""Gives a model with a delta on it the backbone's tensors and modules wherever the delta has changed nothing."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from petl.graft.classes import ClassSpec, is_grafted
from petl.tasks.twins import Memo
from petl.wrapping.own_tensors import own_tensor, state_entries, state_tensors
from petl.wrapping.record import Record
from petl.wrapping.snapshot import Undo

SLOTS = ("_parameters", "_buffers")
ATOMS = (str, int, float, complex, bool, bytes, type(None), type, torch.dtype, torch.device, torch.Size, enum.Enum)


class Sharer:
    """Shares a backbone with models that were copied from it, and equal parts of their records among them."""

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self.state = {key: tensor for key, _, _, tensor in state_tensors(backbone)}
        self._modules = set(backbone.modules())
        self._common: dict[Any, Any] = {}  # what the records of several tasks have alike

    def share(self, model: nn.Module, record: Record, memo: Memo) -> None:
        """Shares tensors, modules and the record; the model computes the same before and after.

        ``memo`` is the table of ``with_own_tensors``, from the backbone to the model before the delta was put on it.
        """
        self._share_tensors(model, record, memo)
        originals = [*self.backbone.modules()]
        partners = {memo[id(module)]: module for module in originals if id(module) in memo}
        replaced = _ModuleSharing(partners, _changed_modules(record)).replace_in(model)
        self._slim(record, replaced)

    def _share_tensors(self, model: nn.Module, record: Record, memo: Memo) -> None:
        """Puts the backbone's tensors in the place of equal copies; those that the delta owns stay."""
        owned_keys = record.owned_keys
        owned = {id(own_tensor(owner, leaf)) for key, owner, leaf in state_entries(model) if key in owned_keys}
        backbone = [tensor for _, _, _, tensor in _slots(self.backbone)]
        copies = {id(memo[id(tensor)]): tensor for tensor in backbone if id(tensor) in memo}
        for module, slot, leaf, tensor in [*_slots(model)]:
            original = copies.get(id(tensor))
            if original is not None and id(tensor) not in owned and _same_bits(tensor, original):
                vars(module)[slot][leaf] = original

    def _slim(self, record: Record, replaced: Mapping[nn.Module, nn.Module]) -> None:
        """Drops from a record what only ``unwrap`` needs, and keeps once what the records of all tasks have alike."""
        record.changes, record.requires_grad, record.training_modes = [], {}, {}
        record.originals = {
            key: self.state[key] if key in self.state and _same_bits(value, self.state[key]) else value
            for key, value in record.originals.items()
        }
        record.frozen = {
            key: self._entry(key, replaced.get(module, module), leaf, checksum)
            for key, (module, leaf, checksum) in record.frozen.items()
        }
        for name in ("samples", "statistics"):
            values: dict[str, Tensor] = getattr(record, name)
            setattr(record, name, {key: self._once_tensor(name, key, value) for key, value in values.items()})
        record.structure = self._common.setdefault(tuple(record.structure.items()), record.structure)

    def _entry(self, key: str, owner: nn.Module, leaf: str, checksum: str) -> tuple[nn.Module, str, str]:
        """Returns a frozen tensor's entry, one for all tasks where its owner is the backbone's."""
        entry = (owner, leaf, checksum)
        return self._common.setdefault((key, entry), entry) if owner in self._modules else entry

    def _once_tensor(self, name: str, key: str, value: Tensor) -> Tensor:
        kept = self._common.setdefault((name, key), value)
        return kept if _same_bits(kept, value) else value


class _ModuleSharing:
    """Replaces modules of a copy by the backbone's, where all of a subtree is equal."""

    def __init__(self, partners: Mapping[nn.Module, nn.Module], changed: set[nn.Module]) -> None:
        self.partners, self.changed = partners, changed
        self.equal: dict[nn.Module, bool] = {}

    def replace_in(self, model: nn.Module) -> dict[nn.Module, nn.Module]:
        """Replaces equal modules below ``model``; returns the replaced modules with the backbone's."""
        self._settle(model)
        return {module: self.partners[module] for module, equal in self.equal.items() if equal}

    def _settle(self, module: nn.Module) -> bool:
        if module in self.equal:
            return self.equal[module]
        partner = self.partners.get(module)
        equal = partner is not None and module not in self.changed
        for leaf, child in [*module._modules.items()]:
            if child is not None and self._settle(child):
                module._modules[leaf] = self.partners[child]
            elif child is not None:
                equal = False
        self.equal[module] = equal and partner is not None and _stands_alone(partner) and _same_tensors(module, partner)
        return self.equal[module]


def _changed_modules(record: Record) -> set[nn.Module]:
    """Returns the modules that ``install`` has changed in more than that they are held in evaluation mode."""
    return {undo.module for undo in record.changes if _is_change(undo)}


def _is_change(undo: Undo) -> bool:
    if undo.slot == "_modules":
        now = vars(undo.module)["_modules"]
        return [*now] != [*undo.value] or any(now[key] is not undo.value[key] for key in now)
    if undo.slot == "__class__" and is_grafted(undo.module):
        return undo.module._petl_spec != ClassSpec(undo.value, held=True)  # type: ignore[operator]  # a RuntimeClass
    return True


def _stands_alone(module: nn.Module) -> bool:
    """Returns whether nothing but its children leads from this module to others: such a one may have another in a copy."""
    own = {key: value for key, value in vars(module).items() if key != "_modules"}
    return not any(own[key] for key in own if key.endswith("_hooks")) and all(map(_is_plain, own.values()))


def _is_plain(value: Any) -> bool:
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        parts = [*value.values(), *value] if isinstance(value, dict) else value
        return all(map(_is_plain, parts))
    is_function = callable(value) and hasattr(value, "__qualname__") and getattr(value, "__closure__", None) is None
    return isinstance(value, (*ATOMS, Tensor)) or (is_function and not hasattr(value, "__self__"))


def _same_tensors(module: nn.Module, partner: nn.Module) -> bool:
    """Returns whether both have the same tensor objects under the same names."""
    pairs = [(vars(module)[slot], vars(partner)[slot]) for slot in SLOTS]
    return all([*one] == [*other] and all(one[key] is other[key] for key in one) for one, other in pairs)


def _slots(model: nn.Module) -> Iterator[tuple[nn.Module, str, str, Tensor]]:
    """Yields (module, dict, name, tensor) of every parameter and buffer, shared ones wherever they are."""
    for module in model.modules():
        for slot in SLOTS:
            yield from ((module, slot, leaf, t) for leaf, t in vars(module)[slot].items() if t is not None)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Returns whether both tensors have the same type, layout, device and bits."""
    if one is other:
        return True
    if (one.dtype, one.shape, one.stride(), one.device) != (other.dtype, other.shape, other.stride(), other.device):
        return False
    if one.is_meta or not one.numel():
        return True
    one, other = (t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (one, other))
    return torch.equal(one, other)
