"""The two files of a report: what may be replaced, looked at before the work, and written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petl.errors import StateError
from petl.findings import as_text
from petl.format.atomic_files import open_atomically, reason

GENERATOR = "petl report"  # in the page's head: such a page may be replaced
HEAD_BYTES = 2000


def report_paths(path: Any, *, overwrite: bool) -> tuple[Path, Path]:
    """Returns the page's path and that of the JSON beside it, after a look at both; folders that aren't there are made.

    Files of an earlier report are replaced, others only with ``overwrite``: also those of `petl.start`, whose numbers are of
    every step.

    Raises:
        StateError: the name doesn't end in ``.html``, a file that is there is no report, or nothing can be written there.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise StateError(f"path={path!r}; expected the name of the page to write, such as 'pets.html'")
    page = Path(path)
    if page.suffix.lower() not in (".html", ".htm"):
        raise StateError(f"{page} doesn't end in .html; give the page's name, such as {page.with_suffix('.html')}")
    beside = page.with_suffix(".json")
    try:
        for file in (page, beside):
            _refuse_other(file, overwrite)
        page.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=page.parent, prefix=".petl-"):
            pass
    except (OSError, ValueError) as error:
        raise StateError(f"can't write {page}: {reason(error)}") from error
    return page, beside


def _refuse_other(file: Path, overwrite: bool) -> None:
    if not os.path.lexists(file):
        return
    if file.exists() and not file.is_file():
        raise StateError(f"{file} is there and no plain file; give another name")
    if not overwrite and file.exists() and not _is_report(file):
        raise StateError(
            f"{file} exists and is no report alone; give another name, or pass overwrite=True to replace it"
        )


def _is_report(file: Path) -> bool:
    if file.suffix.lower() != ".json":
        with file.open("rb") as opened:
            start = opened.read(HEAD_BYTES)
        return f'<meta name="generator" content="{GENERATOR}'.encode() in start
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("kind") == "report" and "start" not in content


def write_report(page: Path, beside: Path, html: str, content: Mapping[str, Any]) -> None:
    """Writes the JSON, then the page, each whole or not at all."""
    for file, text in ((beside, as_text(content)), (page, html)):
        with open_atomically(file) as opened:
            opened.write(text.encode("utf-8"))
