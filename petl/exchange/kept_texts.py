"""What a delta's header says of the outputs and of the images, as the metadata of files of other libraries, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from petl.delta.header import SCHEMA
from petl.format.texts import parsed_json
from petl.wrapping.record import Record

KEPT = ("labels", "task", "units", "thresholds", "quantiles", "temperature", "pipeline")
LONGEST_KEPT = 4 * 2**20  # characters of one value


def kept_texts(header: Mapping[str, Any]) -> dict[str, str]:
    """Returns those values of a header as JSON texts, by key; what the header doesn't say is left out."""
    return {key: json.dumps(header[key]) for key in KEPT if header.get(key) is not None}


def note_texts(record: Record, texts: Mapping[str, str], classes: int | None) -> None:
    """Writes the values of such texts to a record; a value that no delta's header could have is left out."""
    for key in KEPT:
        text = texts.get(key)
        if text is None or len(text) > LONGEST_KEPT:
            continue
        try:
            value = parsed_json(text)
        except (ValueError, RecursionError):
            continue
        if key == "labels" and classes is not None and isinstance(value, list) and len(value) != classes:
            continue
        if SCHEMA[key](value):
            setattr(record, key, value)
