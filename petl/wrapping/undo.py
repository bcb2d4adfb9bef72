"""Undoes what install did to a model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from petl.errors import StateError
from petl.graft.folding import prune
from petl.wrapping.eval_mode import drop_eval_caches
from petl.wrapping.interrupts import uninterrupted
from petl.wrapping.own_tensors import state_tensors
from petl.wrapping.record import Record
from petl.wrapping.snapshot import ADDED_BY_PEFT, RECORD, Snapshot


@contextlib.contextmanager
def undone_on_error(model: nn.Module, record: Record) -> Iterator[Snapshot]:
    """A context that restores the model if it ends with an error; yields the snapshot from before the changes."""
    snapshot = Snapshot(model)
    try:
        yield snapshot
    except BaseException:
        with uninterrupted():
            undo(model, record, snapshot.changes())
            vars(model).pop(RECORD, None)
        raise


def undo(model: nn.Module, record: Record, changes: Sequence[Any]) -> None:
    """Restores structure, values, requires_grad and training modes; the old classifier is moved to the model's device."""
    device = next(model.parameters(), torch.empty(0)).device
    if record.on_meta and (record.originals or record.head) and device.type != "meta":
        raise StateError(
            f"{type(model).__name__} was wrapped on the meta device, so what trains in place and the classifier had no values to "
            f"give back; build the backbone anew, or give it its values before petl.wrap"
        )
    for module in list(model.modules()):
        prune(module)
    for change in changes:
        change.undo()
    for key, _, _, tensor in state_tensors(model):
        _give_back(tensor, record.originals.get(key))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(record.requires_grad.get(name, True))
        parameter.grad = None
    drop_eval_caches(model)
    for name, module in model.named_modules():
        module.training = record.training_modes.get(name, module.training)
    if any(p.device != device for p in model.parameters()):
        model.to(device)
    if record.cast_to is not None:
        model.to(record.cast_to)


def drop_record(model: nn.Module, record: Record) -> None:
    """Removes the record, and peft's note of its adapter, which a merge and a shallow copy would keep."""
    if any(change.adds(ADDED_BY_PEFT) for change in record.changes):
        vars(model).pop(ADDED_BY_PEFT, None)
    vars(model).pop(RECORD, None)


def _give_back(tensor: Tensor, original: Tensor | None) -> None:
    """Writes the value and the dtype from before ``wrap``; a ``base_dtype`` or the file of a delta may have had another dtype."""
    if original is not None and tensor.dtype != original.dtype:
        tensor.data = torch.empty_like(tensor, dtype=original.dtype)
    if original is not None and not original.is_meta:
        tensor.detach().copy_(original)
