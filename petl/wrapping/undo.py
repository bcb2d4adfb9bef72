"""Takes back what install did to a model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from petl.errors import StateError
from petl.graft.graft import prune
from petl.wrapping.eval_mode import drop_eval_caches
from petl.wrapping.interrupts import uninterrupted
from petl.wrapping.own_tensors import state_tensors
from petl.wrapping.record import Record
from petl.wrapping.snapshot import RECORD, Snapshot


@contextlib.contextmanager
def undone_on_error(model: nn.Module, made: Record) -> Iterator[Snapshot]:
    before = Snapshot(model)
    try:
        yield before
    except BaseException:
        with uninterrupted():
            undo(model, made, before.changes())
            vars(model).pop(RECORD, None)
        raise


def undo(model: nn.Module, made: Record, changes: Sequence[Any]) -> None:
    """Put structure, values, flags and modes back; a classifier that was set aside comes back to the model's device."""
    place = next(model.parameters(), torch.empty(0)).device
    if made.hollow and (made.backup or made.head) and place.type != "meta":
        raise StateError(
            f"{type(model).__name__} was wrapped on the meta device, so what trains in place and the classifier had no values to "
            f"give back; build the backbone anew, or give it its values before petl.wrap"
        )
    for module in list(model.modules()):
        prune(module)
    for change in changes:
        change.undo()
    for key, _, _, tensor in state_tensors(model):
        if key in made.narrow:
            tensor.data = torch.empty_like(tensor, dtype=made.backup[key].dtype)
        if key in made.backup and not made.backup[key].is_meta:
            tensor.detach().copy_(made.backup[key])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(made.flags.get(name, True))
        parameter.grad = None
    drop_eval_caches(model)
    for name, module in model.named_modules():
        module.training = made.modes.get(name, module.training)
    if any(p.device != place for p in model.parameters()):
        model.to(place)
    if made.cast is not None:
        model.to(made.cast)
