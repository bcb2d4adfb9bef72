"""The benchmark's results as tables in a Markdown page; what stands outside of the marks is left alone."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from benchmarks.transfer.results import unpacked
from benchmarks.transfer.rows import FULL, PROBE
from petl.evidence.comparison import across_seeds_and_images

BEGIN, END = "<!-- tables: python -m benchmarks.transfer --report -->", "<!-- end of tables -->"
HEAD = ("method", "accuracy", "against full", "against probe", "trainable", "file", "CPU seconds")
PACKAGES = ("torch", "timm", "peft", "accelerate", "numpy")

Line = dict[str, Any]
Seeds = dict[int, Line]  # the results of one row, by seed


def write(lines: Sequence[Line], path: Path) -> None:
    """Put the tables between the marks of the page, or make the page."""
    text = path.read_text() if path.exists() else f"# Results\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n\n{tables(lines)}\n{END}{after}")


def tables(lines: Sequence[Line]) -> str:
    """One table per backbone and data set, best accuracy first, and what they were measured with."""
    found = sorted(lines, key=_place)
    parts = [_table(name, list(group)) for name, group in groupby(found, key=_place)]
    return "\n".join([*parts, _reloaded(found), _measured_with()])


def difference(one: Seeds, other: Seeds) -> tuple[float, float]:
    """How much more accurate a row is than another one, with its standard error: paired by seed and test image."""
    both = sorted(one.keys() & other.keys())
    if one is other:
        return 0.0, 0.0
    return across_seeds_and_images(_right(one, both) - _right(other, both))


def accuracy(one: Seeds) -> tuple[float, float]:
    return across_seeds_and_images(_right(one, sorted(one)))


def _right(one: Seeds, seeds: Sequence[int]) -> Tensor:
    """1.0 where the answer is right [S, N]."""
    return torch.stack([unpacked(one[seed]["right"], one[seed]["tested"]) for seed in seeds])


def _reloaded(lines: Sequence[Line]) -> str:
    saved = [line for line in lines if "reload_difference" in line]
    same = sum(line["reload_difference"] == 0 for line in saved)
    return (
        f"Each file was loaded onto a fresh backbone and the logits of 32 test images compared with those of the trained "
        f"model: bit-equal in {same} of {len(saved)} trainings{_others(saved)}.\n"
    )


def _others(lines: Sequence[Line]) -> str:
    odd = sorted({line["row"] for line in lines if line["reload_difference"] > 0})
    return f"; not for {', '.join(odd)}" if odd else ""


def _place(line: Line) -> tuple[str, str]:
    return line["backbone"], line["data"]


def _table(place: tuple[str, str], lines: list[Line]) -> str:
    by_row: dict[str, Seeds] = {}
    for line in lines:
        by_row.setdefault(line["row"], {})[line["seed"]] = line
    cells = [_cells(seeds, by_row) for seeds in sorted(by_row.values(), key=accuracy, reverse=True)]
    text = [f"## {place[0]}, {place[1]}\n", f"{_about(lines)} {_rates(by_row)}\n", *_markdown([HEAD, *cells])]
    return "\n".join(text) + "\n"


def _about(lines: list[Line]) -> str:
    one = max(lines, key=lambda line: line.get("epochs") or 0)
    plan = one["plan"]
    return (
        f"{one['images']} training images, {one['tested']} test images, {plan['size']} px, {one['epochs']} epochs"
        f"{'' if plan['epochs'] else ' (the default)'}, {'bfloat16 autocast' if plan['precision'] == 'bf16' else 'float32'}, "
        f"seeds {_seeds(lines)}."
    )


def _rates(by_row: dict[str, Seeds]) -> str:
    """The rates that `petl.fit` chose, the highest of each method and of the classifier."""
    own = {row: next(iter(seeds.values())).get("rates") for row, seeds in by_row.items()}
    words = [f"{row} {_rate_words(row, rates)}" for row, rates in own.items() if rates]
    return f"Rates that `petl.fit` chose: {'; '.join(words)}."


def _rate_words(row: str, rates: dict[str, float]) -> str:
    return ", ".join(f"{rate:g}" if name == row else f"{name} {rate:g}" for name, rate in rates.items())


def _cells(seeds: Seeds, by_row: dict[str, Seeds]) -> tuple[str, ...]:
    one = next(iter(seeds.values()))
    again = [line["reload_accuracy"] for line in seeds.values() if line.get("reload_accuracy") is not None]
    note = f" ({mean(again):.3f} after reload)" if again else ""
    few = f", seed {_seeds(seeds.values())}" if len(seeds) < max(map(len, by_row.values())) else ""
    value, error = accuracy(seeds)
    return (
        f"{one['row']}{few}",
        f"{value:.3f} ± {error:.3f}{note}",
        *(_points(seeds, by_row.get(name)) for name in (FULL, PROBE)),
        f"{one['trainable']:,}",
        _size(one["bytes"]) if "bytes" in one else "",
        f"{mean(line['cpu_seconds'] for line in seeds.values()):.0f}",
    )


def _points(one: Seeds, other: Seeds | None) -> str:
    """The difference in points; nothing of a row to itself."""
    if other is None or one is other or not one.keys() & other.keys():
        return ""
    value, error = difference(one, other)
    return f"{100 * value:+.1f} ± {100 * error:.1f}"


def _markdown(rows: Iterable[Sequence[str]]) -> list[str]:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return [head, "|---|" + "---:|" * (len(HEAD) - 1), *body]


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _seeds(lines: Iterable[Line]) -> str:
    return ", ".join(str(seed) for seed in sorted({line["seed"] for line in lines}))


def _measured_with() -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return f"Measured with Python {platform.python_version()}, {versions}, on {_processor()}, one thread per run.\n"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    kinds = torch.backends.cpu.get_cpu_capability()
    return f"{len(names)} cores of an {names[0] if names else platform.processor()} ({kinds})"
