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

BEGIN, END = "<!-- tables: python -m benchmarks.transfer --report -->", "<!-- end of tables -->"
HEAD = ("method", "accuracy", "trainable", "file", "CPU seconds", "learning rate")
PACKAGES = ("torch", "timm", "peft", "accelerate", "numpy")

Line = dict[str, Any]


def write(lines: Sequence[Line], path: Path) -> None:
    """Put the tables between the marks of the page, or make the page."""
    text = path.read_text() if path.exists() else f"# Results\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n\n{tables(lines)}\n{END}{after}")


def tables(lines: Sequence[Line]) -> str:
    """One table per backbone and data set, best accuracy first, and what they were measured with."""
    found = sorted((line for line in lines if line["kind"] == "result"), key=_place)
    parts = [_table(name, list(group)) for name, group in groupby(found, key=_place)]
    return "\n".join([*parts, _reloaded(found), _measured_with()])


def _reloaded(lines: Sequence[Line]) -> str:
    same = sum(line["reload_difference"] == 0 for line in lines)
    return (
        f"Each file was loaded onto a fresh backbone and the logits of 32 test images compared with those of the trained "
        f"model: bit-equal in {same} of {len(lines)} trainings{_others(lines)}.\n"
    )


def _others(lines: Sequence[Line]) -> str:
    odd = sorted({line["row"] for line in lines if line["reload_difference"] > 0})
    return f"; not for {', '.join(odd)}" if odd else ""


def _place(line: Line) -> tuple[str, str]:
    return line["backbone"], line["data"]


def _table(place: tuple[str, str], lines: list[Line]) -> str:
    one, plan = lines[0], lines[0]["plan"]
    title = f"## {place[0]}, {place[1]}\n"
    about = (
        f"{one['images']} training images, {one['tested']} test images (one standard error: about "
        f"{100 * _error(one):.1f} points), {plan['epochs']} epochs, batch size {plan['batch_size']}, "
        f"{'bfloat16 autocast' if plan['precision'] == 'bf16' else 'float32'}, seed {_seeds(lines)}. {_rates(lines)}\n"
    )
    by_row = sorted(lines, key=lambda line: line["row"])
    cells = [_cells(list(group)) for _, group in groupby(by_row, key=lambda line: line["row"])]
    cells.sort(key=lambda row: row[1], reverse=True)
    return "\n".join([title, about, *_markdown([HEAD, *cells])]) + "\n"


def _rates(lines: list[Line]) -> str:
    """How the learning rates were chosen: here, or with --rates-from."""
    plan, here = lines[0]["plan"], [line["row"] for line in lines if line["tried"]]
    search = (
        f"best of three after {plan['search_epochs']} epochs on {plan['search_train']} of the training images, by the "
        f"accuracy on {plan['search_test']} others of them"
    )
    if len(here) == len(lines):
        return f"Learning rates: {search}."
    rest = f" ({', '.join(here)}: {search})" if here else ""
    return f"Learning rates: those of the other dataset{rest}."


def _cells(seeds: list[Line]) -> tuple[str, ...]:
    one = seeds[0]
    average = {key: mean(line[key] for line in seeds) for key in ("accuracy", "cpu_seconds")}
    note = f" ({mean(line['reload_accuracy'] for line in seeds):.3f} after reload)" if one["reload_accuracy"] else ""
    return (
        one["row"],
        f"{average['accuracy']:.3f}{note}",
        f"{one['trainable']:,}",
        _size(one["bytes"]),
        f"{average['cpu_seconds']:.0f}",
        ", ".join(f"{rate:g}" for rate in sorted({line["lr"] for line in seeds})),
    )


def _markdown(rows: Iterable[Sequence[str]]) -> list[str]:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return [head, "|---|" + "---:|" * (len(HEAD) - 1), *body]


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _error(line: Line) -> float:
    """Standard error of the accuracy from the number of test images alone."""
    return (line["accuracy"] * (1 - line["accuracy"]) / line["tested"]) ** 0.5


def _seeds(lines: Sequence[Line]) -> str:
    return ", ".join(str(seed) for seed in sorted({line["seed"] for line in lines}))


def _measured_with() -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return f"Measured with Python {platform.python_version()}, {versions}, on {_processor()}, one thread per run.\n"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    kinds = torch.backends.cpu.get_cpu_capability()
    return f"{len(names)} cores of an {names[0] if names else platform.processor()} ({kinds})"
