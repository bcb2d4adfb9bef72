"""The results file: a JSON line for each row that was measured, with which test images were right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


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


def packed(right: Tensor) -> str:
    """Bool [n] as hexadecimal digits, the first image in the highest bit.

    >>> packed(torch.tensor([True, False, True, True]))
    'b'
    """
    return f"{int(''.join(str(int(one)) for one in right), 2):x}"


def unpacked(text: str, count: int) -> Tensor:
    """The same as 1.0 and 0.0, float64 [count].

    >>> unpacked("b", 4).tolist()
    [1.0, 0.0, 1.0, 1.0]
    """
    return torch.tensor([float(one) for one in f"{int(text, 16):0{count}b}"], dtype=torch.float64)
