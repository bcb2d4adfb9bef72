"""Sorts the values that load_state_dict loads into a wrapped model: averages of the base, or another base."""

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
    """Prepares ``state`` before it is loaded: averages of the base become the base's own bits, other values a new base."""
    follow_exchanged_layers(model, record)
    names = {(owner, leaf): f"{prefix}{key}" for key, owner, leaf in state_entries(model)}
    new_keys = []
    for key, (owner, leaf, recorded) in record.frozen.items():
        name, tensor = names.get((owner, leaf), ""), own_tensor(owner, leaf)
        if name not in state and f"{prefix}{key}" in state:  # peft has renamed the tensor
            state[name] = state.pop(f"{prefix}{key}")
        value = state.get(name)
        if tensor is None or tensor.is_meta or is_shard(tensor):
            continue
        if not isinstance(value, Tensor) or value.shape != tensor.shape:
            continue
        old = record.originals[key] if key in record.low_precision_keys else tensor.detach()
        new = value.detach().to(old.device, old.dtype)
        if torch.equal(new, old):
            continue
        # for a model that was wrapped on the meta device this is False: its checksums have no bytes
        if equal_up_to_rounding(new, old) and checksum(tensor) == recorded:
            state[name] = old.clone()
        else:
            new_keys.append(key)
    _take_base(record, {key: state[names[record.frozen[key][:2]]] for key in new_keys}, state, prefix)


def _take_base(record: Record, new_values: Mapping[str, Tensor], state: Any, prefix: str) -> None:
    """Records these values as the new base's; ``unwrap`` restores tensors that train in place to the values in ``state``."""
    for key, value in new_values.items():
        adopt_value(record, key, value)
    if not new_values:
        return
    for key, original in record.originals.items():  # of tensors that train in place
        value = state.get(f"{prefix}{key}")
        if key not in record.low_precision_keys and isinstance(value, Tensor) and value.shape == original.shape:
            record.originals[key] = value.detach().to("cpu", original.dtype, copy=True)
    warnings.warn(
        f"{len(new_values)} frozen tensors got other values by load_state_dict ({listing(list(new_values), 3)}): petl takes them "
        f"for the base from now on, and deltas of this model go onto that one",
        stacklevel=5,
    )
