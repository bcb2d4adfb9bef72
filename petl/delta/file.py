"""Writes and reads a delta: a safetensors file whose metadata holds the header, checked by the same rules in both directions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from petl.addresses.fetched_file import refuse_fetched
from petl.addresses.local_file import file_to_write, local_file
from petl.delta.header import Header
from petl.delta.tensors import delta_checksum
from petl.errors import DeltaError, shortened
from petl.format.packing import packed, unpacked
from petl.format.tensorfile import read_file, read_header, write_file

Paths = str | os.PathLike[str]


def as_path(path: Paths) -> Path:
    """Returns the path of a delta's file; an address's (``hf://``, ``https://``, ``s3://`` ...) after its file was fetched.

    Raises:
        DeltaError: it can't be a path, or the address can't be fetched.
    """
    return local_file(_path_text(path))


def path_to_write(path: Paths) -> Path:
    """Returns the path of a file that will be written, or raises a DeltaError where it can't be one, as an address can't."""
    text = os.fspath(_path_text(path))
    if text.endswith(("/", os.sep)):  # which a Path would drop, and a file have the folder's name
        shown = shortened(text, 200)
        raise DeltaError(f"can't write {shown}: it is a folder's name; give a file's, such as delta.safetensors in it")
    return file_to_write(path)


def folder_to_write(path: Paths) -> Path:
    """Returns the path of a folder that will be written, or raises a DeltaError where it can't be one, as an address can't."""
    return file_to_write(_path_text(path))


def _path_text(path: Paths) -> Paths:
    """Returns the path as it is, or raises a DeltaError where it can't be one."""
    try:
        text = os.fspath(path)
    except TypeError:
        raise DeltaError(
            f"got {str(path)[:60]!r} ({type(path).__name__}) as a path; expected a text or a Path"
        ) from None
    if not isinstance(text, str) or not text or "\0" in text:
        raise DeltaError(f"{text!r} is no path; give that of a .safetensors file")
    return path


def write_delta(path: Path, tensors: Mapping[str, Tensor], header: Header) -> Path:
    """Writes a delta that ``read_delta`` can read; raises a DeltaError for any other, and then writes nothing."""
    refuse_fetched(path, "a delta")
    in_file = tensors if header.packed is None else packed(tensors, header.packed)
    return write_file(path, in_file, header.sealed(in_file).to_metadata(path, shapes_of(in_file)))


def read_delta(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Returns the checked header and all tensors, packed ones unpacked; the file is read once.

    Raises:
        DeltaError: it can't be read, or its tensors don't have the checksum in its header.
    """
    header, tensors = _read(path)
    return header, unpacked(tensors, header.packed)


def rewrite_header(path: Path, **changes: Any) -> Path:
    """Writes a delta again with other values in its header; its tensors stay bit for bit, also packed ones.

    Raises:
        DeltaError: the file is no delta, or can't be written; it is as it was.
    """
    header, tensors = _read(path)
    return write_file(path, tensors, replace(header.sealed(tensors), **changes).to_metadata(path, shapes_of(tensors)))


def _read(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Returns the checked header, and the tensors as they stand in the file, whose checksum has been compared."""
    metadata, tensors = read_file(path)
    header = Header.from_metadata(path, metadata, shapes_of(tensors))
    if header.checksum not in (None, delta_checksum(tensors)):
        raise DeltaError(
            f"{path}: its numbers don't have the checksum in its header; the file is damaged: copy it again"
        )
    return header, tensors


def read_recipe(path: Path) -> Header:
    """Returns the checked header; no tensor is read."""
    metadata, entries = read_header(path)
    return Header.from_metadata(path, metadata, {key: entry.shape for key, entry in entries.items()})


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each tensor, by key."""
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}
