"""The delta on disk: a safetensors file whose metadata holds the recipe; written under the rules under which it is read."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petl.errors import DeltaError, MethodError, listing
from petl.format.header import SCHEMA, faults
from petl.format.tensorfile import read_file, read_header, replacing, write_file
from petl.methods.registry import check_method_values
from petl.version import __version__
from petl.wrapping.fingerprints import combined, fingerprints

FORMAT = 1
KEY = "petl"
SEAL = "petl_sha256"  # of the text under KEY, so that damage to the recipe is seen too


def write(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> Path:
    """Write a delta that ``read_all`` will take; what it wouldn't is a DeltaError, and nothing is written."""
    text = checked_text(path, tensors, {**header, "checksum": checksum(tensors)})
    return write_file(path, tensors, {KEY: text, SEAL: _sha256(text)})


def checked_text(path: Path | str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """The header as JSON, after the reader's own look at it."""
    try:
        text = json.dumps(header)
    except (TypeError, ValueError, RecursionError) as error:
        raise DeltaError(f"can't write {path}: labels, results and create_args must be JSON values ({error})") from None
    wrong = faults(json.loads(text), {key: tuple(tensor.shape) for key, tensor in tensors.items()})
    if wrong:
        raise DeltaError(
            f"can't write {path}: {listing(wrong)} can't stand in a delta's header, and no petl could load it"
        )
    return text


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """One SHA-256 over names, types, shapes and bytes of the delta's own tensors, whatever their order."""
    return combined(dict(zip(tensors, fingerprints(tensors.values()), strict=True)))


def read_all(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The checked header and all tensors, from one reading of the file; their checksum has been compared."""
    metadata, tensors = read_file(path)
    header = checked_header(path, metadata, {key: tuple(tensor.shape) for key, tensor in tensors.items()})
    if header.get("checksum") not in (None, checksum(tensors)):
        raise DeltaError(
            f"{path}: its numbers don't have the checksum in its header; the file is damaged: copy it again"
        )
    return header, tensors


def read_recipe(path: Path) -> dict[str, Any]:
    """The checked header; no tensor is read."""
    metadata, entries = read_header(path)
    return checked_header(path, metadata, {key: entry.shape for key, entry in entries.items()})


def checked_header(path: Path, metadata: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    text = metadata.get(KEY)
    if text is None:
        raise DeltaError(f"{path} is a safetensors file, but no petl delta: its header has no {KEY!r} entry")
    if metadata.get(SEAL, seal := _sha256(text)) != seal:
        raise DeltaError(
            f"{path}: the {KEY!r} entry of its header doesn't have its checksum; the file is damaged: copy it again"
        )
    try:
        header = json.loads(text)
        number = header["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        shown = f"{type(error).__name__}: {str(error)[:100]}"
        raise DeltaError(
            f"{path}: the {KEY!r} entry of its header can't be read ({shown}); the file is damaged"
        ) from None
    if type(number) is int and number > FORMAT:
        raise DeltaError(
            f"{path} has format {number}, and petl {__version__} reads up to {FORMAT}; upgrade petl-vision"
        )
    wrong = faults(header, shapes)
    if wrong:
        raise DeltaError(
            f"{path}: its header lacks or misstates {listing(wrong)}; the file is damaged, or not to be trusted"
        )
    try:
        for values in header["methods"]:
            check_method_values(values)
    except MethodError as error:
        raise DeltaError(f"{path}: its recipe asks for what petl doesn't do: {error}") from None
    return {**header, **{key: None for key in SCHEMA if key not in header}}  # what older files lack


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def write_merged(path: Path, state: Mapping[str, Tensor], header: Mapping[str, Any]) -> Path:
    """Write a merged model's state dict as a checkpoint that timm loads, in the permissions of any new file.

    A ``.safetensors`` file keeps what the delta's header knows in its metadata, each as JSON: ``labels``, ``pipeline``, ``task``,
    ``results``, ``backbone``. Any other ending is torch's own format, which holds the state dict alone.

    Raises:
        DeltaError: the path can't be written.
    """
    if path.suffix != ".safetensors":
        buffer = io.BytesIO()  # torch's writer has errors of its own for a full disk
        torch.save(dict(state), buffer)
        with replacing(path) as file:
            file.write(buffer.getbuffer())
        return path
    kept = {
        key: header[key] for key in ("labels", "pipeline", "task", "results", "backbone") if header.get(key) is not None
    }
    return write_file(path, state, {"format": "pt", **{key: json.dumps(value) for key, value in kept.items()}})
