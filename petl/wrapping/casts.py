"""Updates the record of a wrapped model when the model is cast to another dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from petl.errors import StateError
from petl.wrapping.fingerprints import checksum, is_unchanged
from petl.wrapping.own_tensors import own_tensor
from petl.wrapping.record import Record


def dtype_changes(record: Record, fn: Callable[[Tensor], Tensor]) -> dict[torch.dtype, torch.dtype]:
    """Returns the dtypes of frozen tensors that ``fn`` would change, each with its new dtype."""
    tensors = [own_tensor(owner, leaf) for owner, leaf, _ in record.frozen.values()]
    devices = {tensor.dtype: tensor.device for tensor in tensors if tensor is not None}
    try:
        new_dtypes = {old: fn(torch.empty(0, dtype=old, device=device)).dtype for old, device in devices.items()}
    except Exception:  # a user's function that can't take an empty tensor; the checksums will notice a cast by it
        return {}
    return {old: new for old, new in new_dtypes.items() if new != old}


def refuse_second_cast(record: Record, casts: Mapping[torch.dtype, torch.dtype]) -> None:
    """Raises a StateError where the frozen base is kept in ``base_dtype``, which is already a cast."""
    if record.low_precision_keys:
        dtypes = ", ".join(sorted(str(new) for new in casts.values()))
        raise StateError(
            f"a model with base_dtype={record.base_dtype} can't be cast to {dtypes}: its frozen base is kept in that type "
            f"already; petl.unwrap(model), cast it, and petl.wrap it again, or leave out base_dtype"
        )


def note_cast(record: Record, casts: Mapping[torch.dtype, torch.dtype], moved: set[str]) -> None:
    """Records new checksums of tensors that were cast without an earlier loss of bits since ``wrap``."""
    for key, (owner, leaf, before) in record.frozen.items():
        tensor, old_dtype = own_tensor(owner, leaf), _dtype(before)
        if tensor is None or key in moved or casts.get(old_dtype) != tensor.dtype:
            continue
        first = record.checksums_before_cast.setdefault(key, before)
        rounded = torch.promote_types(_dtype(first), old_dtype) != old_dtype or first.startswith(f"{tensor.dtype} ")
        after = first if rounded else _meta_checksum(tensor, before) if before.endswith(" meta") else checksum(tensor)
        record.frozen[key] = (owner, leaf, after)
        if after == first and is_unchanged(first, checksum(tensor)):
            del record.checksums_before_cast[key]
    record.cast_to = next(iter(casts.values()))
    record.backbone["dtype"] = str(record.cast_to).removeprefix("torch.")
    record.samples = {key: t.to(casts.get(t.dtype, t.dtype)) for key, t in record.samples.items()}
    record.statistics = {key: t.to(casts.get(t.dtype, t.dtype)) for key, t in record.statistics.items()}


def _dtype(checksum: str) -> torch.dtype:
    """Returns the dtype that a checksum names."""
    return getattr(torch, checksum.partition(" ")[0].removeprefix("torch."))


def _meta_checksum(tensor: Tensor, before: str) -> str:
    """Returns the checksum from before a cast with the new dtype, for a tensor on the meta device."""
    return f"{tensor.dtype} {before.partition(' ')[2]}"
