"""What timm has published of its pretrained weights: accuracies on ImageNet and its relatives, parameters, multiply-adds.

The table is made by ``benchmarks/guidance/published_results.py``. What isn't known is None.
"""

from __future__ import annotations

import csv
import functools
import gzip
from dataclasses import dataclass
from pathlib import Path

PUBLISHED_TABLE = Path(__file__).with_name("published.csv.gz")
PUBLISHED_COLUMNS = ("name", "top1", "real", "r", "sketch", "params", "gmacs")


@dataclass(frozen=True)
class Published:
    """timm's results of one tag: top-1 in percent on ImageNet, its reassessed labels, ImageNet-R and ImageNet-Sketch.

    ``params`` are parameters, ``gmacs`` billions of multiply-adds for an image of the tag's input size.
    """

    top1: float | None = None
    real: float | None = None
    r: float | None = None
    sketch: float | None = None
    params: float | None = None
    gmacs: float | None = None


UNPUBLISHED = Published()


@functools.cache
def published() -> dict[str, Published]:
    """Returns the results by tag, such as "resnet50.a1_in1k"."""
    return {row["name"]: _results(row) for row in csv.DictReader(line for line in _table_lines() if line[0] != "#")}


@functools.cache
def published_source() -> dict[str, str]:
    """Returns where the table comes from: ``date``, ``commit`` and timm's version.

    >>> sorted(published_source())
    ['commit', 'date', 'timm']
    """
    words = (
        next(line for line in _table_lines() if line.startswith("# date=")).partition(";")[0].removeprefix("# ").split()
    )
    return dict(word.split("=", 1) for word in words)


@functools.cache
def _table_lines() -> tuple[str, ...]:
    return tuple(gzip.decompress(PUBLISHED_TABLE.read_bytes()).decode().splitlines())


def _results(row: dict[str, str]) -> Published:
    values = {name: float(row[name]) if row[name] else None for name in PUBLISHED_COLUMNS[1:]}
    millions = values["params"]
    return Published(**{**values, "params": None if millions is None else round(millions * 1e6)})
