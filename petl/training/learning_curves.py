"""Learning curves as lines of text, and how long a training will still take."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

BLOCKS, PLAIN = "▁▂▃▄▅▆▇█", "_.-=+*#@"  # eight heights, lowest first
GAP = " "  # an epoch without a finite number
RECENT = 5  # epochs that the remaining time is estimated from
LABEL_GAP = 2


def can_show_blocks(encoding: str | None) -> bool:
    """Returns whether a terminal or file of this encoding can show the block characters."""
    try:
        BLOCKS.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def curves_text(history: Any, width: int, ascii: bool) -> str:
    """Returns a line for the training loss, the validation loss and the monitor; each has its own scale."""
    rows = history.rows
    if len(rows) < 2:
        return ""
    names = [name for name in dict.fromkeys(("train_loss", "loss", history.monitor)) if name in rows[0]]
    label = max(map(len, names))
    best = ""
    if history.monitor in history.best:
        best = f", best {history.best[history.monitor]:.3g} in epoch {history.best['epoch']}"
    lines = []
    for name in names:
        values = [float(row.get(name, math.nan)) for row in rows]
        ends = f"{values[0]:.3g} to {values[-1]:.3g}{best if name == history.monitor else ''}"
        room = max(2, width - label - 2 * LABEL_GAP - len(ends))
        lines.append(f"{name:<{label}}  {sparkline(values, room, PLAIN if ascii else BLOCKS)}  {ends}")
    return "\n".join(lines)


def sparkline(values: Sequence[float], width: int, marks: str = BLOCKS) -> str:
    """Returns one character per value, lowest to highest; of more than ``width`` values, each character is a mean of some.

    >>> sparkline([1.0, 2.0, 3.0, float("nan"), 8.0], 10)
    '▁▂▃ █'
    """
    means = _shortened(values, width)
    finite = [value for value in means if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    if high == low:
        return "".join(marks[len(marks) // 2] if math.isfinite(value) else GAP for value in means)
    top = len(marks) - 1
    return "".join(marks[round((value - low) / (high - low) * top)] if math.isfinite(value) else GAP for value in means)


def _shortened(values: Sequence[float], width: int) -> list[float]:
    """Returns at most ``width`` numbers: means of neighbours, those that are not finite left out."""
    count = min(width, len(values))
    cuts = [round(part * len(values) / count) for part in range(count + 1)]
    parts = [[v for v in values[start:end] if math.isfinite(v)] for start, end in pairwise(cuts)]
    return [statistics.fmean(part) if part else math.nan for part in parts]


def remaining_time(history: Any, epochs: int) -> str:
    """Returns about how long the rest of a training takes, by its last epochs: ``about 3 min left``; "" at its end."""
    left = 0 if history.stopped else epochs - len(history.rows)
    recent = [row["seconds"] for row in history.rows[-RECENT:]]
    return f"about {duration(left * statistics.median(recent))} left" if left > 0 and recent else ""


def duration(seconds: float) -> str:
    """Returns seconds as a short text: ``5 s``, ``3 min``, ``2 h 05 min``.

    >>> [duration(s) for s in (0.3, 5, 89, 200, 7500, 200000)]
    ['1 s', '5 s', '89 s', '3 min', '2 h 05 min', '2 d 07 h']
    """
    whole = max(1, round(seconds))
    if whole < 90:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest:02} min" if hours < 48 else f"{hours // 24} d {hours % 24:02} h"
