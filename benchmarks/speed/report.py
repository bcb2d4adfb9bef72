"""The speed benchmark's results as a page with tables and a picture."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.picture import picture
from benchmarks.speed.tables import Result, inference_table, table

PACKAGES = ("torch", "timm", "peft")
BEGIN, END = "<!-- tables: python -m benchmarks.speed --report -->", "<!-- end of tables -->"


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
