"""The line of a pair: whether it passed, how many points did, and what was seen at the others."""

from __future__ import annotations

import re
from typing import Any


def judged(line: dict[str, Any], points: dict[str, str]) -> dict[str, Any]:
    """The line with its points: how many passed, and of the others what was seen; one failed point fails the line."""
    failed = {name: seen for name, seen in points.items() if seen and not seen.startswith("n/a")}
    line["passed"] = sum(not seen for seen in points.values())
    line["points"] = {name: why(seen) for name, seen in points.items() if seen}
    line["status"] = "fail" if failed else "pass"
    return line


def why(seen: str) -> str:
    """What was seen, short; of a merge that can't be, the reason alone."""
    seen = re.sub(r"can't merge .* into a weight \((.*)\);.*", r"\1", seen)
    return short(seen, 110 if seen.startswith("n/a") else 240)


def short(text: str, most: int = 240) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
