"""What does not apply, and why: methods that refuse a model, and points of the contract that a method can't keep."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from benchmarks.coverage.markdown import plain, row, table
from benchmarks.coverage.run import Line

REASONS = (
    (r"no BatchNorm", "the net has no BatchNorm"),
    (r"no norm layers", "the net has no norm layers"),
    (r"attention projections", "no attention with projections named q, k, v"),
    (r"nothing to train|no classifier|encoder without", "an encoder without a classifier"),
    (r"base doesn't take this batch", "the base takes images of three channels"),
    (r"bottleneck is nonlinear", "the bottleneck is nonlinear and stays a layer"),
    (
        r"does not apply one weight|(\w+) does not",
        "the stem does not apply one weight to the image's channels: a real 1x1 layer stays",
    ),
    (r"no biases", "the net has no biases outside the classifier"),
)


def inapplicable(lines: dict[str, list[Line]]) -> Iterable[str]:
    """Methods that refuse, and points that can't hold, with the reason, counted."""
    every = [line for found in lines.values() for line in found]
    refusals = [(line["method"], "the method", line["reason"]) for line in every if line["status"] == "n/a"]
    points = [(line["method"], point, seen) for line in every for point, seen in line.get("points", {}).items()]
    skipped = [(method, point, seen) for method, point, seen in points if seen.startswith("n/a")]
    counted = Counter((method, point, _reason(seen)) for method, point, seen in refusals + skipped)
    yield from table(("method", "what", "why", "pairs"))
    for (method, point, seen), number in sorted(counted.items(), key=lambda entry: (entry[0][0], -entry[1])):
        yield row(f"`{method}`", point, seen, number)


def _reason(seen: str) -> str:
    return next((text for pattern, text in REASONS if re.search(pattern, seen)), plain(seen.removeprefix("n/a: ")))
