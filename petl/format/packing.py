"""Keeps floating-point tensors in 8, 4 or 3 bits a number: whole numbers of a scale, which are rounded and say so.

A tensor is seen as a matrix [rows, length] whose rows are its longer side. A number is stored as a whole number, which stands
for its product with a scale in bfloat16: -127 ... 127 in 8 bits, with one scale for each row; -8 ... 7 in 4 bits and -4 ... 3 in
3 bits, with one for each 64 numbers of a row, which may be negative. What is small, has one axis (biases, norms, statistics) or
isn't a finite floating-point number is not packed. In 4 and 3 bits, long vectors that aren't running statistics take 8 bits.

All packed tensors of a file are one tensor of bytes: first the numbers of each, then the scales of each. Packing what was
unpacked gives the same bytes: a scale has eight significant bits, so its product with a whole number is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from petl.format.texts import LONGEST_TEXT
from petl.format.whole_numbers import (
    Ends,
    best_scales,
    bits_as_bytes,
    bytes_as_bits,
    whole_numbers,
    widest_scales,
)

PACKED_TYPES = {"int8": 8, "int4": 4, "int3": 3}  # what `petl.save(dtype=)` takes, with the bits of a number
PACKED = "petl:packed"  # the name of the tensor of bytes in the file; no module has a colon in its name
GROUP = 64  # numbers that share a scale; 0: all of a row
SMALL = 512  # a tensor of fewer numbers is not worth its scales
RUNNING = ("running_mean", "running_var")  # whose smallest values count as much as the largest
MOST_PACKED = 2**16
LARGEST_PACKED = 1e18  # whose square is a float32, too
LARGEST_SHAPE = 2**40


class PackedShape(NamedTuple):
    """How one tensor is packed: ``bits`` for each number, and a scale for ``group`` numbers of a row (0: for the row)."""

    shape: tuple[int, ...]
    bits: int
    group: int

    @property
    def ends(self) -> Ends:
        half = 2 ** (self.bits - 1)
        return (1 - half if self.bits == 8 else -half), half - 1

    @property
    def is_turned(self) -> bool:
        rows, length = self._sides()
        return rows > length

    def _sides(self) -> tuple[int, int]:
        first = self.shape[0] if len(self.shape) > 1 else 1
        return first, math.prod(self.shape) // max(first, 1)

    @property
    def matrix(self) -> tuple[int, int]:
        rows, length = self._sides()
        return (length, rows) if self.is_turned else (rows, length)

    @property
    def scales(self) -> tuple[int, int]:
        rows, length = self.matrix
        return rows, -(-length // (self.group or max(length, 1)))

    @property
    def number_bytes(self) -> int:
        return -(-math.prod(self.shape) * self.bits // 8)

    @property
    def scale_bytes(self) -> int:
        return 2 * math.prod(self.scales)


def packing_for(dtype: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns which of the tensors are packed, and how, as it stands in the header: ``bits``, ``group``, and shapes by key."""
    bits = PACKED_TYPES[dtype]
    shapes = {key: list(tensors[key].shape) for key in sorted(tensors) if _is_packable(key, tensors[key], bits)}
    return {"bits": bits, "group": 0 if bits == 8 else GROUP, "tensors": shapes}


def _is_packable(key: str, tensor: Tensor, bits: int) -> bool:
    vector_stays = tensor.ndim < 2 and (bits == 8 or key.endswith(RUNNING))
    if not tensor.is_floating_point() or tensor.numel() < SMALL or vector_stays:
        return False
    largest = tensor.abs().max()  # NaN where any number is
    return bool(largest.isfinite()) and float(largest) < LARGEST_PACKED


def is_packing(value: Any) -> bool:
    """Returns whether a header's value says how tensors are packed; `packing_faults` compares it with the file's tensors."""
    if not isinstance(value, dict) or value.get("bits") not in PACKED_TYPES.values() or type(value["bits"]) is not int:
        return False
    shapes, group = value.get("tensors"), value.get("group")
    if type(group) is not int or group not in (0, GROUP) or not isinstance(shapes, dict) or len(shapes) > MOST_PACKED:
        return False
    return all(len(key) <= LONGEST_TEXT and _is_shape(shape) for key, shape in shapes.items())


def _is_shape(value: Any) -> bool:
    """Returns whether the value is a list of at most eight sizes, none of them 0."""
    if not isinstance(value, list) or not 1 <= len(value) <= 8:
        return False
    return all(type(n) is int and 0 < n < LARGEST_SHAPE for n in value) and math.prod(value) < LARGEST_SHAPE


def packing_faults(packing: Mapping[str, Any] | None, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Lists what doesn't fit the file's own tensors: packed ones take all bytes of theirs, and are there once."""
    if packing is None:
        return [f"packed (nothing says what {PACKED} holds)"] if PACKED in shapes else []
    twice = [key for key in packing["tensors"] if key in shapes]
    if twice or PACKED in packing["tensors"]:
        return [f"packed ({(twice or [PACKED])[0]} is in the file twice)"]
    size = sum(layout.number_bytes + layout.scale_bytes for layout in layouts(packing).values())
    return [] if shapes.get(PACKED) == (size,) else [f"packed ({size} bytes, the file has {shapes.get(PACKED)})"]


def unpacked_shapes(
    packing: Mapping[str, Any] | None, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the tensors that ``unpacked`` gives; ``shapes``: of those in the file."""
    own = {key: shape for key, shape in shapes.items() if key != PACKED or packing is None}
    return own | {key: tuple(shape) for key, shape in (packing or {}).get("tensors", {}).items()}


def layouts(packing: Mapping[str, Any]) -> dict[str, PackedShape]:
    """Returns the layout of each packed tensor, in the order of the file."""
    return {key: _layout(tuple(shape), packing) for key, shape in sorted(packing["tensors"].items())}


def _layout(shape: tuple[int, ...], packing: Mapping[str, Any]) -> PackedShape:
    return PackedShape(shape, packing["bits"] if len(shape) > 1 else 8, packing["group"])


def packed(tensors: Mapping[str, Tensor], packing: Mapping[str, Any]) -> dict[str, Tensor]:
    """Returns the tensors as they stand in the file: those of ``packing`` as one tensor of bytes, the others as they are."""
    parts = [_packed_tensor(tensors[key], layout) for key, layout in layouts(packing).items()]
    whole = torch.cat(
        [*(numbers for numbers, _ in parts), *(scales for _, scales in parts), torch.empty(0, dtype=torch.uint8)]
    )
    return {PACKED: whole, **{key: tensor for key, tensor in tensors.items() if key not in packing["tensors"]}}


def unpacked(tensors: Mapping[str, Tensor], packing: Mapping[str, Any] | None) -> dict[str, Tensor]:
    """Returns the tensors that a file stands for; the packed ones are float32. ``packing_faults`` has found nothing."""
    if packing is None:
        return dict(tensors)
    places, data = layouts(packing), tensors[PACKED]
    sizes = [layout.number_bytes for layout in places.values()] + [layout.scale_bytes for layout in places.values()]
    pieces: list[Tensor] = list(data.split(sizes)) if sizes else []
    whole = {
        key: _unpacked_tensor(numbers, scales, layout)
        for (key, layout), numbers, scales in zip(places.items(), pieces, pieces[len(places) :], strict=False)
    }
    return {**{key: tensor for key, tensor in tensors.items() if key != PACKED}, **whole}


def _packed_tensor(tensor: Tensor, layout: PackedShape) -> tuple[Tensor, Tensor]:
    """Returns the bytes of the numbers and of the scales."""
    groups = _grouped(_as_matrix(tensor.detach().float().cpu(), layout), layout)
    scales = widest_scales(groups, layout.ends) if layout.bits == 8 else best_scales(groups, layout.ends)
    numbers = whole_numbers(groups, scales, layout.ends)
    rows, length = layout.matrix
    flat = (numbers - layout.ends[0]).to(torch.uint8).reshape(rows, -1)[:, :length].reshape(-1)
    return bits_as_bytes(flat, layout.bits), scales.to(torch.bfloat16).reshape(-1).view(torch.uint8)


def _unpacked_tensor(data: Tensor, scale_data: Tensor, layout: PackedShape) -> Tensor:
    rows, length = layout.matrix
    flat = bytes_as_bits(data, layout.bits, rows * length).float() + layout.ends[0]
    scales = scale_data.clone().view(torch.bfloat16).float().reshape(*layout.scales, 1)
    groups = _grouped(flat.reshape(rows, length), layout) * scales
    matrix = groups.reshape(rows, -1)[:, :length]
    return (matrix.T if layout.is_turned else matrix).reshape(layout.shape).contiguous()


def _as_matrix(tensor: Tensor, layout: PackedShape) -> Tensor:
    rows, length = layout.matrix
    return tensor.reshape(length, rows).T.contiguous() if layout.is_turned else tensor.reshape(rows, length)


def _grouped(matrix: Tensor, layout: PackedShape) -> Tensor:
    """Returns [rows, groups, numbers of a group]; the last group of a row is filled up with zeros."""
    rows, length = layout.matrix
    groups = layout.scales[1]
    size = layout.group or length
    return torch.nn.functional.pad(matrix, (0, groups * size - length)).reshape(rows, groups, size)
