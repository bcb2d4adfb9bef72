"""Reads the text of a header from a file's metadata; a checksum of the text, its seal, shows damage."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petl.errors import DeltaError
from petl.format.texts import parsed_json

KEY = "petl"
SEAL = "petl_sha256"  # the checksum of the text under KEY, so that damage to the recipe is noticed too


def seal_of(text: str) -> str:
    """Returns the SHA-256 of the header's text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sealed_values(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Returns the header's values, of which only ``format`` is known to be present, or raises a DeltaError."""
    text = metadata.get(KEY)
    if text is None:
        raise DeltaError(f"{path} is a safetensors file, but no petl delta: its header has no {KEY!r} entry")
    if metadata.get(SEAL, seal := seal_of(text)) != seal:
        raise DeltaError(
            f"{path}: the {KEY!r} entry of its header doesn't have its checksum; the file is damaged: copy it again"
        )
    try:
        values = parsed_json(text)
        _ = values["format"]
        return values
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        shown = f"{type(error).__name__}: {str(error)[:100]}"
        raise DeltaError(
            f"{path}: the {KEY!r} entry of its header can't be read ({shown}); the file is damaged"
        ) from None
