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
    """Look at values that are about to be loaded: averages of the base leave its bits, other weights become the base."""
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
        if (
            equal_up_to_rounding(new, before) and checksum(own) == then
        ):  # not what was on the meta device: it has no bits of its own
            state[name] = before.clone()
        else:
            fresh.append(key)
    _take_base(
        record,
        fresh,
        state,
        {key: names.get((record.frozen[key][0], record.frozen[key][1]), "") for key in fresh},
        prefix,
    )


def _take_base(record: Record, fresh: list[str], state: Any, names: Mapping[str, str], prefix: str) -> None:
    for key in fresh:
        adopt_value(record, key, state[names[key]])
    if not fresh:
        return
    for key, kept in record.originals.items():  # what trains in place starts, and is given back, as the new base has it
        value = state.get(f"{prefix}{key}")
        if key not in record.low_precision_keys and isinstance(value, Tensor) and value.shape == kept.shape:
            record.originals[key] = value.detach().to("cpu", kept.dtype, copy=True)
    warnings.warn(
        f"{len(fresh)} frozen tensors got other values by load_state_dict ({listing(fresh, 3)}): petl takes them for the base "
        f"from now on, and deltas of this model go onto that one",
        stacklevel=5,
    )
