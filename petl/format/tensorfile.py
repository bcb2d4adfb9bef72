"""Reads and writes safetensors files: a file is written whole or not at all, and the same content always has the same bytes.

petl has a reader and a writer of its own for three reasons: a file has to be read in one go (a reader that opens the path twice
can read two different files), its header has to be checked before a tensor is created, and an error has to name what went wrong
on the disk.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from petl.errors import DeltaError
from petl.format.atomic_files import open_atomically, reason, short_path
from petl.format.texts import is_utf8, parsed_json

TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
TYPE_NAMES = {dtype: name for name, dtype in TYPES.items()}
METADATA = "__metadata__"
LONGEST_HEADER = 16 * 2**20  # bytes
MOST_TENSORS = 2**16


class Entry(NamedTuple):
    """A tensor in a file: its dtype and shape, and its bytes ``[begin, end)``, counted from the end of the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class Damaged(Exception):
    """The bytes are no safetensors file; the message says why."""


def write_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Writes beside ``path``, flushes to disk, and renames: a reader sees the old file or the new one, never half of one.

    A file that is replaced keeps its permissions, a link keeps pointing where it did. The order of ``tensors`` and ``metadata``
    makes no difference to the bytes.

    Raises:
        DeltaError: the path can't be written (no folder, no right, a full disk ...); what was there is as it was.
    """
    head, order = _header(tensors, metadata)
    with open_atomically(path) as file:
        file.write(head)
        for key in order:
            file.write(_bytes(tensors[key]))
    return path


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """Returns the header's bytes, and the keys in the order of the file: wide dtypes first, so that all tensors are aligned."""
    order = sorted(tensors, key=lambda key: (-tensors[key].element_size(), key))
    entries: dict[str, Any] = {METADATA: {key: metadata[key] for key in sorted(metadata)}}
    offset = 0
    for key in order:
        size = tensors[key].numel() * tensors[key].element_size()
        type_name = TYPE_NAMES.get(tensors[key].dtype)
        if type_name is None:
            raise DeltaError(
                f"{key} has the type {tensors[key].dtype}, which no delta holds; it takes {', '.join(TYPE_NAMES.values())}"
            )
        offsets = [offset, offset + size]
        entries[key] = {"dtype": type_name, "shape": list(tensors[key].shape), "data_offsets": offsets}
        offset += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LONGEST_HEADER:
        raise DeltaError(
            f"the header would take {len(text):,} bytes, {LONGEST_HEADER:,} are allowed; leave out long results"
        )
    return struct.pack("<Q", len(text)) + text, order


def _bytes(tensor: Tensor) -> Any:
    """Returns the bytes of a tensor."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""


def read_file(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Returns metadata and tensors of a file, whose bytes are read once."""
    with _opened(path) as (file, size):
        metadata, entries, start = _parsed(file, size)
        data = bytearray(size - start)
        if file.readinto(data) != len(data):  # type: ignore[attr-defined]  # files have this method
            raise Damaged("it became shorter while it was read")
        return metadata, {key: _tensor(data, entry) for key, entry in entries.items()}


def read_header(path: Path) -> tuple[dict[str, str], dict[str, Entry]]:
    """Returns the metadata of a file and the entries of its tensors, by key; no tensor is read."""
    with _opened(path) as (file, size):
        return _parsed(file, size)[:2]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """A context that opens a file for reading and yields it with its size; errors become a DeltaError."""
    try:
        if not path.is_file():
            raise DeltaError(f"{short_path(path)} is not a file; give the path of a delta that petl.save wrote")
        with open(path, "rb") as file:
            yield file, os.fstat(file.fileno()).st_size
    except (Damaged, OSError, ValueError) as error:
        raise DeltaError(
            f"{short_path(path)} is no whole safetensors file ({reason(error)}); copy or save it again"
        ) from error


def _parsed(file: IO[bytes], size: int) -> tuple[dict[str, str], dict[str, Entry], int]:
    """Returns metadata, entries and where the tensors start; every length is checked against the size of the file."""
    prefix = file.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else -1
    if not 2 <= length <= min(size - 8, LONGEST_HEADER):
        raise Damaged(f"its {size:,} bytes don't hold the header that they announce")
    try:
        header = parsed_json(file.read(length), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"its header is no JSON: {str(error)[:100]}") from None
    if not isinstance(header, dict):
        raise Damaged("its header is no table of tensors")
    if len(header) > MOST_TENSORS:
        raise Damaged(f"{len(header):,} tensors")
    metadata = header.pop(METADATA, None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Damaged("its metadata is no table of texts")
    if not all(map(is_utf8, header)):  # JSON can spell half a character, which no file can be written with
        raise Damaged("the name of a tensor is no text")
    entries = {key: _entry(value) for key, value in header.items()}
    _refuse_holes(entries, size - 8 - length)
    return metadata, entries, 8 + length


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the pairs of a JSON object as a dict, or raises a ValueError where a key comes twice."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name comes twice")
    return table


def _entry(value: Any) -> Entry:
    """Returns the checked entry of one tensor, or raises Damaged."""
    try:
        dtype, shape, (begin, end) = TYPES[value["dtype"]], tuple(value["shape"]), value["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise Damaged(f"an entry of its header is {str(value)[:80]}") from None
    if not all(type(number) is int and 0 <= number < 2**62 for number in (*shape, begin, end)) or len(shape) > 32:
        raise Damaged(f"an entry of its header is {str(value)[:80]}")
    if (
        math.prod(max(number, 1) for number in shape) >= 2**60
    ):  # torch computes strides from these even for an empty tensor
        raise Damaged(f"shape {str(list(shape))[:80]} can't be")
    if math.prod(shape) * dtype.itemsize != end - begin:
        raise Damaged(f"shape {str(list(shape))[:80]} doesn't fit its {end - begin:,} bytes")
    return Entry(dtype, shape, begin, end)


def _refuse_holes(entries: Mapping[str, Entry], size: int) -> None:
    """Raises Damaged unless every byte belongs to exactly one tensor."""
    end = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != end:
            raise Damaged("its tensors overlap or leave gaps")
        end = entry.end
    if end != size:
        raise Damaged(f"its tensors take {end:,} bytes, the file has {size:,}")


def _tensor(data: bytearray, entry: Entry) -> Tensor:
    """Returns a tensor that views the bytes; a copy where they aren't aligned, as in files of other writers."""
    count = math.prod(entry.shape)
    if not count:
        return torch.empty(entry.shape, dtype=entry.dtype)
    if entry.dtype is torch.bool:  # a bool tensor whose bytes aren't 0 or 1 is undefined
        return torch.frombuffer(data, dtype=torch.uint8, count=count, offset=entry.begin).ne(0).reshape(entry.shape)
    if entry.begin % entry.dtype.itemsize:
        return torch.frombuffer(data[entry.begin : entry.end], dtype=entry.dtype).reshape(entry.shape)
    return torch.frombuffer(data, dtype=entry.dtype, count=count, offset=entry.begin).reshape(entry.shape)
