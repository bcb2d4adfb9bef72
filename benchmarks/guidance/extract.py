"""What `petl.extract` keeps of a full fine-tuning, on real images with EfficientNet-Lite0.

    python -m benchmarks.guidance.extract --data FOLDER [--tasks NAME ...] [--epochs 6]

FOLDER has npz files as benchmarks/transfer/data.py reads them. All weights are fine-tuned (method "full") and merged; of that
checkpoint, `petl.extract` makes deltas of several ranks. Accuracies are those of the same test images, paired.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import petl
from benchmarks.guidance.combine import Sides, sides
from petl import demo

WAYS: tuple[Mapping[str, Any], ...] = (
    {"rank": 4},
    {"rank": 8},
    {"rank": 16},
    {"rank": 32},
    {"rank": "auto"},
    {"rank": "full"},
)


def fine_tuned(base: nn.Module, data: Sides, epochs: int) -> nn.Module:
    """The plain model after a full fine-tuning, with no delta on it."""
    model = petl.wrap(copy.deepcopy(base), "full", num_classes=len(data.classes))
    petl.fit(model, data.train, val=None, epochs=epochs, batch_size=32, progress=False)
    return petl.merge(model).eval()


def size(found: petl.Extracted, folder: Path) -> int:
    """Bytes of the delta's file."""
    path = folder / "delta.safetensors"
    found.save(path)
    return path.stat().st_size


def measure(base: nn.Module, name: str, data: Sides, epochs: int) -> None:
    """One task: each way's residual, bytes, and accuracy beside that of the whole checkpoint."""
    start = time.process_time()
    tuned = fine_tuned(base, data, epochs)
    print(f"{name}: fine-tuned in {time.process_time() - start:.0f} CPU s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            start = time.process_time()
            found = petl.extract(base, tuned, **way, labels=data.classes, data=data.test, progress=False)
            spent, cost = time.process_time() - start, found.cost
            assert cost is not None
            print(
                f"  rank {way['rank']}: {size(found, Path(folder)) / 1e6:.2f} MB, residual {found.residual:.3f}; checkpoint "
                f"{cost.tuned:.4f}, delta {cost.extracted:.4f}, {cost.difference:+.4f} +- {cost.error:.4f} on {cost.images}; "
                f"{spent:.0f} CPU s",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="*", default=["fashion_mnist", "emoji_noto"])
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=6)
    args = parser.parse_args()
    torch.manual_seed(0)
    base = demo.lite0().eval()
    for name in args.tasks:
        measure(base, name, sides(args.data / f"{name}.npz", args.train, args.test), args.epochs)


if __name__ == "__main__":
    main()
