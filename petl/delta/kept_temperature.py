"""Writes a temperature into a delta file, whose tensors stay as they are."""

from __future__ import annotations

from petl.addresses.fetched_file import refuse_fetched
from petl.delta.file import Paths, as_path, rewrite_header


def keep_temperature_in(path: Paths, temperature: float | None) -> None:
    """Writes the temperature of confidences into the header of a delta; its tensors stay bit for bit.

    Raises:
        DeltaError: the file is no delta, or can't be written; it is as it was.
    """
    file = as_path(path)
    refuse_fetched(file, "a temperature")
    rewrite_header(file, temperature=temperature)
