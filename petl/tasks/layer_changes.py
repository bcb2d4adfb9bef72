"""Finds what a task changes, layer by layer: whether its rows can be computed beside other tasks' rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from petl.graft.classes import base_class
from petl.graft.kinds import Graft, WeightGraft, grafts
from petl.kernels.low_rank import LowRankChange
from petl.methods.foreign import ForeignMethod
from petl.tasks.row_layers import BesideBase, LayerChange, OwnLayer
from petl.tasks.row_proof import RowProof, is_row_layer
from petl.tasks.task import AddedTask


@dataclass(frozen=True)
class TaskChanges:
    """What a task changes before its classifier, by the layers' names; ``fault`` says why that can't be said."""

    layers: Mapping[str, LayerChange]
    fault: str = ""

    @property
    def classifier_alone(self) -> bool:
        return not self.fault and not self.layers


def changes_of(task: AddedTask, backbone: nn.Module, proof: RowProof) -> TaskChanges:
    """Returns the task's changes; what the proof doesn't cover is a fault."""
    if proof.fault:
        return TaskChanges({}, f"the backbone can't be computed for several tasks at once: {proof.fault}")
    if any(isinstance(method, ForeignMethod) for method in task.record.methods):
        return TaskChanges({}, "its layers are another library's")
    modules, layers = dict(backbone.named_modules()), {}
    for name, module in _own_modules(task.model, modules):
        if proof.is_head(name):
            continue
        change = _change(name, module, modules.get(name), proof)
        if isinstance(change, str):
            return TaskChanges({}, change)
        if change is not None:
            layers[name] = change
    return TaskChanges(layers)


def _own_modules(model: nn.Module, backbone: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Yields (name, module) of the modules that aren't the backbone's, without grafts."""
    grown = {part for module in model.modules() for _, graft in grafts(module) for part in graft.modules()}
    for name, module in model.named_modules():
        if module not in grown and backbone.get(name) is not module:
            yield name, module


def _change(name: str, module: nn.Module, partner: nn.Module | None, proof: RowProof) -> LayerChange | str | None:
    """Returns the change of one module, None where there is none, or as a text why the module can't take part."""
    if partner is None or base_class(module) is not base_class(partner):
        return f"{name} isn't the backbone's"
    own, moved = grafts(module), _moved(module, partner)
    if not own and not moved:
        return None
    if not name or any(not isinstance(graft, WeightGraft) for _, graft in own):
        what = ", ".join(leaf for leaf, _ in own) or ", ".join(moved)
        return f"{what} at {name or 'the model'} isn't a change of one layer's tensors"
    if not is_row_layer(partner) or name not in proof.apart:
        return f"{name}, which changes, doesn't have the rows of a batch one after the other, or is read without a call"
    return _beside(module, partner, own, moved) or OwnLayer(module)


def _moved(module: nn.Module, partner: nn.Module) -> list[str]:
    """Returns the names of the module's own tensors that aren't the backbone's."""
    pairs = [(vars(module)[slot], vars(partner)[slot]) for slot in ("_parameters", "_buffers")]
    return [leaf for one, other in pairs for leaf in one if one[leaf] is not other.get(leaf)]


def _beside(module: nn.Module, partner: nn.Module, own: list[tuple[str, Graft]], moved: list[str]) -> BesideBase | None:
    """Returns the change as one that is added to the output of the backbone's layer; None where it isn't of that kind."""
    kind = base_class(partner)
    if kind is nn.Conv2d and cast(nn.Conv2d, partner).padding_mode != "zeros":
        return None
    changes = [
        graft.low_rank() if isinstance(graft, WeightGraft) and graft.param == "weight" else None for _, graft in own
    ]
    if kind not in (nn.Linear, nn.Conv2d) or len(own) > 1 or None in changes or not {*moved} <= {"bias"}:
        return None
    change, weight = next(iter(changes), None), cast(Tensor, partner._parameters["weight"])
    if change is not None and change.up.dtype != weight.dtype:
        return None
    bias = _difference(module._parameters.get("bias"), partner._parameters.get("bias")) if moved else None
    return None if moved and bias is None else BesideBase(partner, _detached(change), bias)


def _difference(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return None if one is None or other is None else (one.detach() - other.detach()).to(one.dtype)


def _detached(change: LowRankChange | None) -> LowRankChange | None:
    return change if change is None else LowRankChange(change.up.detach(), change.down.detach(), change.scale)


def fits_one_pass(x: Tensor) -> bool:
    """Returns whether batches of this kind may be computed for several tasks at once: rounding is small, and nobody casts."""
    return x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(x.device.type)
