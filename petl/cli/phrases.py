"""Single values as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from petl.format.texts import json_text

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


def short_json(value: Any) -> str:
    """Returns JSON in which long lists are cut."""
    if isinstance(value, list) and len(value) > MANY:
        shown = json.dumps(value[:MANY], ensure_ascii=False)
        return f"{shown[:-1]}, ... {len(value) - MANY} more]; --json has them"
    return json.dumps(value, ensure_ascii=False)


def kilobytes(path: Path) -> str:
    return f"{path.stat().st_size / 1000:,.0f} kB"
