"""Trying one pair at its depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.coverage.graphs import graphs
from benchmarks.coverage.peft import rival
from benchmarks.coverage.plan import Pair
from benchmarks.coverage.real import real
from benchmarks.coverage.shapes import shapes

TRIALS: dict[str, Callable[[Pair], dict[str, Any]]] = {
    "shapes": shapes,
    "real": real,
    "every": real,
    "sample": real,
    "graphs": graphs,
    "rival": rival,
}


def tried(pair: Pair) -> dict[str, Any]:
    """The line of this pair: status, reason, figures and points."""
    return TRIALS[pair.depth](pair)
