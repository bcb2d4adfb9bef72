"""The tables of the speed benchmark: a row per side, a column per figure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

HEAD = ("side", "trainable", "bytes", "bytes / full", "bytes / peft", "peak", "step", "step / full", "step / peft")
RIVALS = ("full", "peft", "peft, norms still", "parametrize")
SHOWN = {"peft, norms still": "peft, frozen norms"}  # sides whose recorded name isn't the field's word
UNKNOWN = "-"

Result = dict[str, Any]


def table(result: Result) -> str:
    """The sides of one model."""
    sides = result["sides"]
    rows = [_row(name, side, sides) for name, side in sides.items()]
    return _markdown([HEAD, *rows])


def _row(name: str, side: Result, sides: dict[str, Result]) -> tuple[str, ...]:
    full, peft = sides.get("full", {}), sides.get("peft", {})
    one, other, rival = (step_seconds(s) for s in (side, full, peft))
    return (
        SHOWN.get(name, name),
        f"{side['trainable']:,}",
        _megabytes(side.get("bytes")),
        ratio(side.get("bytes"), full.get("bytes")),
        ratio(side.get("bytes"), peft.get("bytes")),
        _megabytes(side.get("peak")),
        UNKNOWN if one is None else f"{one * 1e3:.0f} ms",
        ratio(one, other),
        ratio(one, rival),
    )


def inference_table(results: Sequence[Result]) -> str:
    """Milliseconds of the base, and the others as multiples of it."""
    kinds = [kind for kind in results[0]["inference"] if kind != "base"]
    rows = [("model", "base", *kinds)]
    for result in results:
        seconds = {kind: median(each) for kind, each in result["inference"].items()}
        base = seconds["base"]
        rows.append((result["model"], f"{base * 1e3:.0f} ms", *(ratio(seconds[kind], base) for kind in kinds)))
    return _markdown(rows)


def ratio(one: float | None, other: float | None) -> str:
    """``one / other`` with two digits, where both are known."""
    return f"{one / other:.2f}" if one is not None and other else UNKNOWN


def step_seconds(side: Result) -> float | None:
    return median(side["seconds"]) if side.get("seconds") else None


def _megabytes(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number / 1e6:.0f} MB"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *rest, ""])
