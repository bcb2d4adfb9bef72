"""The speed benchmark's results as a page with tables and a picture."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

PACKAGES = ("torch", "timm", "peft")
BEGIN, END = "<!-- tables: benchmarks/speed.py --report -->", "<!-- end of tables -->"
HEAD = ("side", "trainable", "bytes", "bytes / full", "bytes / peft", "peak", "step", "step / full", "step / peft")
RIVALS = ("full", "peft", "peft, norms still", "parametrize")
SHOWN = {"peft, norms still": "peft, frozen norms"}  # sides whose recorded name isn't the field's word
UNKNOWN = "-"

Result = dict[str, Any]


def machine(work: Any) -> dict[str, Any]:
    """What the figures depend on, without the name of the machine."""
    gpu = {"gpu": torch.cuda.get_device_name()} if work.device.type == "cuda" else {}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"cpu": _processor(), "cores": os.cpu_count(), "threads": work.threads, **gpu, **versions}


def _processor() -> str:
    """The processor's model name, as Linux tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def write(folder: Path, path: Path) -> None:
    """Put the tables between the marks of the page, and the picture beside it."""
    results = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    text = path.read_text() if path.exists() else f"# Speed and memory\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    image = picture(results, path.parent / "img" / "speed.svg")
    shown = "![Bytes and time of each side, relative to full fine-tuning](img/speed.svg)\n\n" if image else ""
    path.write_text(f"{before}{BEGIN}\n\n{shown}{page(results)}\n{END}{after}")


def page(results: Sequence[Result]) -> str:
    """A section per variant, with a table per model and the machine that it was measured on."""
    variants = list(dict.fromkeys(result["variant"] for result in results))
    return "\n".join(_section(v, [r for r in results if r["variant"] == v]) for v in variants)


def _section(variant: str, results: Sequence[Result]) -> str:
    parts = [f"## {_title(variant)}\n", *(_about(results[0]),)]
    parts += [f"### {result['model']}\n\n{table(result)}" for result in results]
    inferred = [result for result in results if result.get("inference")]
    return "\n".join([*parts, *([f"### Inference\n\n{inference_table(inferred)}"] if inferred else [])])


def _title(variant: str) -> str:
    device, *kinds = variant.split("-")
    words = {"bf16": "bfloat16 autocast", "compile": "torch.compile"}
    return f"{device.upper()}, {' and '.join(words[kind] for kind in kinds) or 'float32'}"


def _about(result: Result) -> str:
    work, there = result["work"], result["machine"]
    versions = ", ".join(f"{name} {there[name]}" for name in PACKAGES)
    gpu = f"{there['gpu']}, " if "gpu" in there else ""
    return (
        f"Batch size {work['batch']}, {work['size']} px. {gpu}{there['cpu']}, {there['cores']} cores, "
        f"{there['threads']} threads; {versions}.\n"
    )


def table(result: Result) -> str:
    """The sides of one model."""
    sides = result["sides"]
    rows = [_row(name, side, sides) for name, side in sides.items()]
    return _markdown([HEAD, *rows])


def _row(name: str, side: Result, sides: dict[str, Result]) -> tuple[str, ...]:
    full, peft = sides.get("full", {}), sides.get("peft", {})
    one, other, rival = (_seconds(s) for s in (side, full, peft))
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


def _seconds(side: Result) -> float | None:
    return median(side["seconds"]) if side.get("seconds") else None


def _megabytes(number: int | None) -> str:
    return UNKNOWN if number is None else f"{number / 1e6:.0f} MB"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *rest, ""])


def picture(results: Sequence[Result], path: Path) -> bool:
    """Bytes and time, both over those of full fine-tuning: a panel per model that was timed in float32, a row per side.

    A side has a row of its own, so that sides with equal figures can all be read.
    """
    timed = [r for r in results if "-" not in r["variant"] and _seconds(r["sides"].get("full", {}))]
    if not timed:
        return False
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "petl", "svg.fonttype": "none"})
    from matplotlib import pyplot

    most_first = sorted(timed, key=lambda result: -len(_drawn(result)))  # the longest list has the others' order in it
    names = list(dict.fromkeys(name for result in most_first for name in _drawn(result)))
    names.sort(key=lambda name: name not in RIVALS)  # what is measured against, above what petl offers
    columns = min(2, len(timed))
    rows = -(-len(timed) // columns)
    size = (1.5 + 3.6 * columns, 1.2 + (0.7 + 0.21 * len(names)) * rows)
    figure, panels = pyplot.subplots(rows, columns, figsize=size, squeeze=False, sharex=True, sharey=True)
    for panel, result in zip(panels.flat, timed, strict=False):
        _draw(panel, result, names)
    for panel in panels.flat[len(timed) :]:
        panel.set_visible(False)
    panels.flat[0].set_xlim(-0.03, None)  # the axes are shared: only now all panels' figures are in them
    figure.supxlabel("share of full fine-tuning", fontsize=10)
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="upper center", ncols=2, frameon=False, fontsize=10)
    figure.tight_layout(rect=(0.01, 0, 1, 1 - 0.35 / size[1]))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return True


def _drawn(result: Result) -> dict[str, Result]:
    """The sides whose bytes and time are known."""
    return {name: side for name, side in result["sides"].items() if side.get("bytes") and side.get("seconds")}


def _draw(panel: Any, result: Result, names: Sequence[str]) -> None:
    sides = _drawn(result)
    full = sides["full"]
    shown = [name for name in names if name in sides]
    rows = [names.index(name) for name in shown]
    shares = [sides[name]["bytes"] / full["bytes"] for name in shown]
    times = [(_seconds(sides[name]) or 0) / (_seconds(full) or 1) for name in shown]
    panel.hlines(rows, shares, times, color="lightgray", linewidth=1.5, zorder=1)
    panel.scatter(shares, rows, color="tab:green", s=26, zorder=2, label="bytes alive for the backward")
    panel.scatter(
        times, rows, facecolors="none", edgecolors="tab:blue", marker="s", s=34, zorder=3, label="time of a step"
    )
    panel.set_title(result["model"], fontsize=10)
    panel.set_yticks(range(len(names)), [SHOWN.get(name, name) for name in names], fontsize=9)
    panel.set_ylim(len(names) - 0.5, -0.5)  # the first side is on top
    panel.tick_params(axis="x", labelsize=9, labelbottom=True)
    panel.axvline(1, color="gray", linewidth=0.8, zorder=0)
    panel.grid(axis="x", alpha=0.3)
