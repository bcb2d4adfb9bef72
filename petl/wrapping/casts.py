"""Follows casts of a wrapped model, so that its frozen tensors are known in their new type."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from petl.errors import StateError
from petl.wrapping.fingerprints import checksum, is_unchanged
from petl.wrapping.own_tensors import own_tensor
from petl.wrapping.record import Record


def dtype_changes(record: Record, fn: Callable[[Tensor], Tensor]) -> dict[torch.dtype, torch.dtype]:
    """The types of frozen tensors that ``fn`` would change, with what they become."""
    own = [own_tensor(owner, leaf) for owner, leaf, _ in record.frozen.values()]
    places = {tensor.dtype: tensor.device for tensor in own if tensor is not None}
    try:
        after = {kind: fn(torch.empty(0, dtype=kind, device=device)).dtype for kind, device in places.items()}
    except Exception:  # a function of somebody's that wants whole tensors; a cast by it is found by the checksums
        return {}
    return {kind: new for kind, new in after.items() if new != kind}


def refuse_second_cast(record: Record, casts: Mapping[torch.dtype, torch.dtype]) -> None:
    """Raises a StateError where the frozen base is kept in ``base_dtype``, which is a cast already."""
    if record.low_precision_keys:
        kinds = ", ".join(sorted(str(new) for new in casts.values()))
        raise StateError(
            f"a model with base_dtype={record.base_dtype} can't be cast to {kinds}: its frozen base is kept in that type "
            f"already; petl.unwrap(model), cast it, and petl.wrap it again, or leave out base_dtype"
        )


def note_cast(record: Record, casts: Mapping[torch.dtype, torch.dtype], moved: set[str]) -> None:
    """Keeps new checksums of what was cast from the type that it had at ``wrap``, or from one that held all of its bits."""
    for key, (owner, leaf, then) in record.frozen.items():
        own, kind = own_tensor(owner, leaf), _dtype(then)
        if own is None or key in moved or casts.get(kind) != own.dtype:
            continue
        first = record.checksums_before_cast.setdefault(key, then)
        rounded = torch.promote_types(_dtype(first), kind) != kind or first.startswith(f"{own.dtype} ")
        now = first if rounded else _meta_checksum(own, then) if then.endswith(" meta") else checksum(own)
        record.frozen[key] = (owner, leaf, now)
        if now == first and is_unchanged(first, checksum(own)):
            del record.checksums_before_cast[key]
    record.cast_to = next(iter(casts.values()))
    record.backbone["dtype"] = str(record.cast_to).removeprefix("torch.")
    record.samples = {key: t.to(casts.get(t.dtype, t.dtype)) for key, t in record.samples.items()}
    record.statistics = {key: t.to(casts.get(t.dtype, t.dtype)) for key, t in record.statistics.items()}


def _dtype(checksum: str) -> torch.dtype:
    return getattr(torch, checksum.partition(" ")[0].removeprefix("torch."))


def _meta_checksum(own: Tensor, then: str) -> str:
    return f"{own.dtype} {then.partition(' ')[2]}"
