"""The results file: a JSON line per learning rate that was tried, and per row that was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Results:
    """JSON lines in a file; what is there already isn't measured again."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "results.jsonl"

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def find(self, **key: Any) -> dict[str, Any] | None:
        fits = (line for line in self.read() if all(line.get(name) == value for name, value in key.items()))
        return next(fits, None)

    def add(self, line: dict[str, Any]) -> dict[str, Any]:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
        return line
