"""Collects the tensors of a delta, converts them for the file, compares them with a model's, and writes them into a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from petl.errors import DeltaError, listing
from petl.graft.sharded import write_whole
from petl.wrapping.eval_mode import drop_eval_caches
from petl.wrapping.fingerprints import combined_fingerprint, fingerprints, full_tensor
from petl.wrapping.own_tensors import own_tensor, state_entries
from petl.wrapping.record import Record


def as_stored(key: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Returns the tensor as it goes into the file, or raises a DeltaError where ``dtype`` can't hold its numbers."""
    tensor = full_tensor(tensor)
    stored = tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
    if dtype is not None and bool((tensor.isfinite() & ~stored.isfinite()).any()):
        largest = float(tensor.abs().nan_to_num(posinf=0).max())
        raise DeltaError(
            f"not saved: {key} reaches {largest:.4g}, and {dtype} ends at {torch.finfo(dtype).max:.4g}; use "
            f"dtype=torch.bfloat16, or leave it out"
        )
    return stored.cpu().contiguous()


def delta_checksum(tensors: Mapping[str, Tensor]) -> str:
    """Returns one SHA-256 over names, dtypes, shapes and bytes of the delta's own tensors, whatever their order."""
    return combined_fingerprint(dict(zip(tensors, fingerprints(tensors.values()), strict=True)))


def fill_model(model: nn.Module, tensors: Mapping[str, Tensor], *, as_stored: bool) -> None:
    """Writes the values into the model; ``as_stored`` also restores the file's dtypes, which a cast may have changed."""
    for key, owner, leaf in state_entries(model):
        if key in tensors and (tensor := own_tensor(owner, leaf)) is not None:
            if as_stored and tensor.dtype != tensors[key].dtype:
                tensor.data = tensor.detach().to(tensors[key].dtype)
            write_whole(tensor, tensors[key])
    drop_eval_caches(model)


def delta_tensors(model: nn.Module, record: Record) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the tensors for the file, by key, and those of the keys that were unfrozen by hand after ``wrap``."""
    tensors: dict[str, Tensor] = {}
    owned_keys = record.owned_keys
    for key, owner, leaf in state_entries(model):
        tensor = own_tensor(owner, leaf)
        if tensor is not None and (key in owned_keys or tensor.requires_grad or _is_new(record, key, owner)):
            tensors[key] = tensor.detach()
    planned = owned_keys - {*record.unfrozen_by_hand}
    return tensors, [key for key in tensors if key not in planned]


def _is_new(record: Record, key: str, owner: nn.Module) -> bool:
    """Returns whether this is a buffer of a training layer that was added after ``wrap``: of a new classifier's BatchNorm."""
    if not any(p.requires_grad for p in owner.parameters(recurse=False)) or key in record.owned_keys:
        return False
    frozen_entry = record.frozen.get(key)
    if frozen_entry is None:  # under another name since wrap, inside a layer of another library, it is no new one
        leaf = key.rpartition(".")[2]
        return not any(kept is owner and name == leaf for kept, name, _ in record.frozen.values())
    return frozen_entry[0] is not owner


def refuse_mismatch(path: Path, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Raises a DeltaError where a name, a shape or a kind of number differs, before any value is used."""
    missing, extra = [k for k in wanted if k not in tensors], [k for k in tensors if k not in wanted]
    if missing or extra:
        raise DeltaError(
            f"{path} doesn't fit: missing {listing(missing) or 'nothing'}; unexpected {listing(extra) or 'nothing'}"
        )
    for key, tensor in tensors.items():
        expected = wanted[key]
        same_kind = tensor.is_floating_point() if expected.is_floating_point() else tensor.dtype == expected.dtype
        if tensor.shape != expected.shape or not same_kind:
            raise DeltaError(
                f"{path}: {key} is {tensor.dtype} {tuple(tensor.shape)}, the model's is {expected.dtype} "
                f"{tuple(expected.shape)}; load it onto the backbone that it was made on"
            )
