"""How large deltas are: measures the table of sizes in docs/format.md and writes it there.

    python -m benchmarks.delta_sizes           # writes the table
    python -m benchmarks.delta_sizes --check   # only says which lines have another size by now

Sizes depend on shapes and on the header alone, so the weights are random and nothing is fetched.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch

import petl
from petl.delta.tensors import delta_tensors

PAGE = Path(__file__).parent.parent / "docs" / "format.md"
BEGIN, END = "<!-- sizes: python -m benchmarks.delta_sizes -->", "<!-- end of sizes -->"
MODELS = {"resnet50": "ResNet-50", "vit_small_patch16_224": "ViT-S/16 at 224 px"}
CLASSES = 10
ROWS: dict[str, tuple[tuple[str, ...], Any]] = {
    "`probe`": (("resnet50", "vit_small_patch16_224"), petl.Probe()),
    "`bn`, statistics included": (("resnet50",), petl.BN()),
    '`bn`, `stats="keep"`': (("resnet50",), petl.BN(stats="keep")),
    "`lora`, rank 8, all linear and dense convolution layers": (("resnet50", "vit_small_patch16_224"), petl.LoRA()),
    '`lora`, rank 8, `where="blocks.*.attn.qkv"`': (("vit_small_patch16_224",), petl.LoRA(where="blocks.*.attn.qkv")),
    "`adapter`, bottleneck 16": (("vit_small_patch16_224",), petl.Adapter(bottleneck=16)),
}


def measured(architecture: str, method: Any) -> int:
    """The size of a delta on disk, in bytes."""
    model = petl.wrap(timm.create_model(architecture), method, num_classes=CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        return Path(petl.save(model, Path(folder) / "delta.safetensors")).stat().st_size


def expected(architecture: str, method: Any) -> int:
    """The bytes of the numbers in a delta, without its header, from the shapes alone."""
    with torch.device("meta"):
        model = petl.wrap(timm.create_model(architecture), method, num_classes=CLASSES)
    made = petl.record(model)
    assert made is not None
    return sum(t.numel() * t.element_size() for t in delta_tensors(model, made)[0].values())


def backbone(architecture: str) -> int:
    """The bytes of the backbone's own state, with its 1000 classes."""
    with torch.device("meta"):
        state = timm.create_model(architecture).state_dict()
    return sum(t.numel() * t.element_size() for t in state.values())


def words(size: int) -> str:
    """``82,712`` bytes as ``83 kB``; over a megabyte with two decimals. Digits that a longer header would change are left out."""
    return f"{size / 1e6:,.2f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def table() -> str:
    head = ["delta", *(f"{title} ({words(backbone(name))})" for name, title in MODELS.items())]
    rows = [[row, *(_cell(row, name) for name in MODELS)] for row in ROWS]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---", *("---:" for _ in MODELS)], *rows])


def _cell(row: str, architecture: str) -> str:
    architectures, method = ROWS[row]
    return words(measured(architecture, method)) if architecture in architectures else ""


def on_page() -> dict[str, list[str]]:
    """The page's rows: their cells by the first one."""
    lines = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {first: rest for first, *rest in cells}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.delta_sizes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a line differs")
    check, before, text = parser.parse_args().check, on_page(), table()
    head, _, rest = PAGE.read_text().partition(BEGIN)
    if not check:
        PAGE.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")
    other = (
        [row for row, cells in on_page().items() if before.get(row) != cells]
        if not check
        else [line for line in text.splitlines() if line not in PAGE.read_text()]
    )
    print("\n".join(other) or "the table is as it was")
    sys.exit(bool(check and other))


if __name__ == "__main__":
    main()
