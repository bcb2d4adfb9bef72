"""The delta on disk: a safetensors file whose metadata holds the header; written under the rules under which it is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from petl.delta.header import KEY, SEAL, checked_header, checked_text, seal_of
from petl.errors import DeltaError
from petl.format.tensorfile import read_file, read_header, write_file
from petl.wrapping.fingerprints import combined_fingerprint, fingerprints

Paths = str | os.PathLike[str]


def as_path(path: Paths) -> Path:
    """The path, or a DeltaError where it is none."""
    try:
        text = os.fspath(path)
    except TypeError:
        raise DeltaError(
            f"got {str(path)[:60]!r} ({type(path).__name__}) as a path; expected a text or a Path"
        ) from None
    if not isinstance(text, str) or not text or "\0" in text:
        raise DeltaError(f"{text!r} is no path; give that of a .safetensors file")
    return Path(text)


def write_delta(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> Path:
    """Write a delta that ``read_all`` will take; what it wouldn't is a DeltaError, and nothing is written."""
    text = checked_text(path, tensors, {**header, "checksum": delta_checksum(tensors)})
    return write_file(path, tensors, {KEY: text, SEAL: seal_of(text)})


def delta_checksum(tensors: Mapping[str, Tensor]) -> str:
    """One SHA-256 over names, types, shapes and bytes of the delta's own tensors, whatever their order."""
    return combined_fingerprint(dict(zip(tensors, fingerprints(tensors.values()), strict=True)))


def read_delta(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The checked header and all tensors, from one reading of the file; their checksum has been compared."""
    metadata, tensors = read_file(path)
    header = checked_header(path, metadata, {key: tuple(tensor.shape) for key, tensor in tensors.items()})
    if header.get("checksum") not in (None, delta_checksum(tensors)):
        raise DeltaError(
            f"{path}: its numbers don't have the checksum in its header; the file is damaged: copy it again"
        )
    return header, tensors


def read_recipe(path: Path) -> dict[str, Any]:
    """The checked header; no tensor is read."""
    metadata, entries = read_header(path)
    return checked_header(path, metadata, {key: entry.shape for key, entry in entries.items()})
