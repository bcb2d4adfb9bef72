"""Tables in Markdown, and lines grouped for them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.coverage.run import Line


def table(names: Iterable[str]) -> list[str]:
    names = [*names]
    return [row(*names), row(*("---" for _ in names))]


def row(*cells: Any) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def plain(text: str, most: int = 200) -> str:
    """Text that a table cell can hold."""
    text = re.sub(r"\s+", " ", text).replace("|", "/").replace("<", "&lt;").replace("[", "\\[")
    return text if len(text) <= most else f"{text[:most]} ..."


def grouped(lines: Iterable[Line], key: Callable[[Line], str]) -> dict[str, list[Line]]:
    found: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        found[key(line)].append(line)
    return found
