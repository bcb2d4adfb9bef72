"""Single values as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petl.format.texts import json_text

if TYPE_CHECKING:
    from petl.findings import Findings

MANY = 20  # items of a list in a header that `inspect` shows


def prediction_text(row: dict[str, Any]) -> str:
    """Returns a prediction's value (with its unit), its confidence, or the beginning of an embedding."""
    if "embedding" in row:
        first = ", ".join(f"{number:.3g}" for number in row["embedding"][:3])
        return f"[{first}, ...] ({len(row['embedding'])} numbers)"
    return f"{row['value']:.6g} {row.get('units', '')}".rstrip() if "value" in row else f"{row['confidence']:.1%}"


def as_json_text(value: Any) -> str:
    """Returns JSON in ASCII, with its one control character (DEL) escaped too."""
    return json_text(value).replace("\x7f", "\\u007f")


def findings_text(found: Findings, as_json: bool) -> str:
    """Returns what a verb has found as its sentences, or as indented JSON, without a line break at the end."""
    from petl.findings import as_text

    return as_text(found).rstrip("\n") if as_json else str(found)


def short_json(value: Any) -> str:
    """Returns JSON in which long lists are cut."""
    if isinstance(value, list) and len(value) > MANY:
        shown = json.dumps(value[:MANY], ensure_ascii=False)
        return f"{shown[:-1]}, ... {len(value) - MANY} more]; --json has them"
    return json.dumps(value, ensure_ascii=False)


def kilobytes(path: Path) -> str:
    return f"{path.stat().st_size / 1000:,.0f} kB"
