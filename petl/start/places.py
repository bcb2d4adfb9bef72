"""The three files that `petl.start` leaves: they are looked at before anything is computed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from petl.errors import StateError
from petl.report.page_files import report_paths


@dataclass(frozen=True)
class Places:
    """The files: ``delta`` (.safetensors), ``page`` (.html) and ``numbers`` (.json)."""

    delta: Path
    page: Path
    numbers: Path


def places_for(data: Any, out: str | Path | None, *, overwrite: bool) -> Places:
    """Returns the files for ``out``, a path without or with suffix; None: those beside a folder or table, with its name.

    Raises:
        StateError: one is there already and ``overwrite`` isn't said, or nothing can be written there, or the data has no name.
    """
    if out is None and not isinstance(data, (str, Path)):
        raise StateError(
            f"a {type(data).__name__} has no name to call the files by; pass out='pets' for pets.safetensors"
        )
    stem = Path(os.path.normpath(data)) if out is None else Path(out)
    if stem.name in ("", ".", ".."):
        stem = stem.resolve()
    if (out is None and stem.is_file()) or stem.suffix in (".safetensors", ".html", ".json"):
        stem = stem.with_suffix("")
    if not stem.name:
        raise StateError(f"{data} has no name to call the files by; pass out='pets' for pets.safetensors")
    found = Places(*(stem.parent / f"{stem.name}{suffix}" for suffix in (".safetensors", ".html", ".json")))
    for path in (found.delta, found.page, found.numbers):
        if path.is_dir():
            raise StateError(f"{path} is a folder; pass another name: out='pets'")
        if os.path.lexists(path) and not overwrite:
            raise StateError(f"{path} exists; pass another name (out=), or overwrite=True (petl start: --overwrite)")
    report_paths(found.page, overwrite=overwrite)  # it makes the folder, and tries to write there
    return found
