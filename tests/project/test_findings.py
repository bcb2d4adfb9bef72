"""What guidance returns prints as text and gives plain values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from petl.findings import Findings, as_text, json_value


@dataclass(frozen=True)
class Row:
    name: str
    score: float


@dataclass(frozen=True, repr=False)
class Found(Findings):
    rows: list[Row]
    table: torch.Tensor

    def sentences(self) -> list[str]:
        return [f"{row.name}: {row.score}" for row in self.rows]


def test_it_prints_as_lines_that_steer_no_terminal() -> None:
    assert str(Found([Row("a", 1.0), Row("b\x1b[2J", 2.0)], torch.zeros(1))) == "a: 1.0\nb\\x1b[2J: 2.0"


def test_json_holds_every_field_as_plain_values() -> None:
    found = Found([Row("a", float("inf"))], torch.tensor([[1.0, 2.0]])).to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (
        found["kind"] == "found" and found["rows"] == [{"name": "a", "score": None}] and found["table"] == [[1.0, 2.0]]
    )
    assert json_value({1: np.float32(0.5), "p": Path("x"), "s": (1, None)}) == {"1": 0.5, "p": "x", "s": [1, None]}
    assert json.loads(as_text(found)) == found
