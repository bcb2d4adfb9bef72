"""Sorts values that load_state_dict brings into a wrapped model: averages of the base, or another base."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from petl.errors import listing
from petl.graft.sharded import is_shard
from petl.wrapping.fingerprints import checksum
from petl.wrapping.frozen_base import follow_exchanged_layers
from petl.wrapping.own_tensors import own_tensor, state_entries
from petl.wrapping.rebase import adopt_value
from petl.wrapping.record import Record
from petl.wrapping.rounding import equal_up_to_rounding


def sort_loaded_values(model: nn.Module, record: Record, state: Any, prefix: str) -> None:
    """Prepares ``state`` before it is loaded: an average of the base becomes the base's own bits, other weights the new base."""
    follow_exchanged_layers(model, record)
    names = {(owner, leaf): f"{prefix}{key}" for key, owner, leaf in state_entries(model)}
    fresh = []
    for key, (owner, leaf, then) in record.frozen.items():
        name, own = names.get((owner, leaf), ""), own_tensor(owner, leaf)
        if name not in state and f"{prefix}{key}" in state:  # peft has given it another name
            state[name] = state.pop(f"{prefix}{key}")
        value = state.get(name)
        if own is None or own.is_meta or is_shard(own) or not isinstance(value, Tensor) or value.shape != own.shape:
            continue
        before = record.originals[key] if key in record.low_precision_keys else own.detach()
        new = value.detach().to(before.device, before.dtype)
        if torch.equal(new, before):
            continue
        # a tensor from the meta device has no bits of its own, and its checksum is never that of numbers
        if equal_up_to_rounding(new, before) and checksum(own) == then:
            state[name] = before.clone()
        else:
            fresh.append(key)
    _take_base(record, {key: state[names[record.frozen[key][:2]]] for key in fresh}, state, prefix)


def _take_base(record: Record, fresh: Mapping[str, Tensor], state: Any, prefix: str) -> None:
    """Notes these values as the new base's, and those of tensors that train in place as what ``unwrap`` gives back."""
    for key, value in fresh.items():
        adopt_value(record, key, value)
    if not fresh:
        return
    for key, kept in record.originals.items():  # what trains in place starts, and is given back, as the new base has it
        value = state.get(f"{prefix}{key}")
        if key not in record.low_precision_keys and isinstance(value, Tensor) and value.shape == kept.shape:
            record.originals[key] = value.detach().to("cpu", kept.dtype, copy=True)
    warnings.warn(
        f"{len(fresh)} frozen tensors got other values by load_state_dict ({listing(list(fresh), 3)}): petl takes them for the "
        f"base from now on, and deltas of this model go onto that one",
        stacklevel=5,
    )
