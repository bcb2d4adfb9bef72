"""Decides how a delta's tensors stand in its file: as they are, in another floating-point type, or packed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from petl.delta.header import STORED_TYPES, Header
from petl.delta.tensors import as_stored
from petl.delta.versions import FORMAT, PACKED_FORMAT
from petl.errors import DeltaError, near
from petl.format.packing import PACKED_TYPES, packed, packing_for, unpacked


def stored_type_name(dtype: torch.dtype | str | None) -> str | None:
    """Returns the name of a type for the file (None: every tensor's own), or raises a DeltaError.

    >>> stored_type_name(torch.bfloat16), stored_type_name("int8")
    ('bfloat16', 'int8')
    """
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if not isinstance(dtype, (torch.dtype, str)) or name not in STORED_TYPES:
        raise DeltaError(
            f"dtype={dtype!r}; a delta's numbers are stored as one of {', '.join(STORED_TYPES)} (a text, or a type such as "
            f"torch.bfloat16){near(name, STORED_TYPES)}"
        )
    return name


def stored_as(
    header: Header, tensors: Mapping[str, Tensor], dtype: torch.dtype | str | None
) -> tuple[Header, dict[str, Tensor]]:
    """Returns header and tensors for a file of this type: floating-point tensors cast, or the header saying how they are packed.

    Raises:
        DeltaError: there is no such type, or it can't hold the numbers.
    """
    name = stored_type_name(dtype)
    is_packed = name in PACKED_TYPES
    cast = getattr(torch, name) if name and not is_packed else None
    stored = {key: as_stored(key, tensor, cast) for key, tensor in tensors.items()}
    packing = packing_for(name, stored) if name and is_packed else None
    if packing is not None and not packing["tensors"]:  # all of it is too small
        packing = name = None
    in_file = unpacked(packed(stored, packing), packing) if packing else stored
    own = {key: as_stored(key, tensor, None) for key, tensor in tensors.items()}
    is_rounded = name is not None and any(True for _ in _lossy_keys(own, in_file))
    number = PACKED_FORMAT if packing else FORMAT
    rounding = name if is_rounded else header.approximate
    return replace(header, format=number, dtype=name, packed=packing, approximate=rounding), stored


def _lossy_keys(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Iterator[str]:
    """Yields the keys of tensors whose numbers aren't those from before."""
    for key, tensor in before.items():
        other = after[key]
        if not torch.equal(tensor.nan_to_num(0.0), other.to(tensor.dtype).nan_to_num(0.0)):
            yield key
