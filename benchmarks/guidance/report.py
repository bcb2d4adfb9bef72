"""What a report costs: seconds, bytes and memory for a delta on Lite0.

    python -m benchmarks.guidance.report --data FOLDER --names fashion_mnist --images 500

``FOLDER`` holds npz files as `benchmarks.transfer.data` reads them; without it, scikit-learn's digits are taken.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch

import petl
from benchmarks.transfer.data import Pictures, pictures
from petl import demo

TRAINED_ON = 400  # images


def measure(found: Pictures, images: int, size: int, epochs: int, out: Path) -> str:
    """Trains norm and LoRA on Lite0, draws the report of test images, and returns a line of figures."""
    model = demo.lite0()
    pipeline = petl.data.pipeline(model, size=size)
    train, test = (
        found.tensors(found.chosen(part, count, 0), pipeline) for part, count in ((0, TRAINED_ON), (1, images))
    )
    petl.wrap(model, ["norm", petl.LoRA(rank=4)], num_classes=len(found.classes))
    delta = out / f"{found.name}.safetensors"
    petl.fit(model, train, test, epochs=epochs, out=delta, labels=list(found.classes), progress=False)
    memory, wall, cpu = _memory(), time.perf_counter(), time.process_time()
    report = petl.report(
        model, test, out / f"{found.name}.html", delta=delta, about=found.name, images=images, progress=False
    )
    seconds = f"{time.perf_counter() - wall:.0f} s, {time.process_time() - cpu:.0f} CPU s"
    sizes = f"page {report.path.stat().st_size:,} bytes, JSON {report.json_path.stat().st_size:,} bytes"
    return f"{report}\n{found.name}: {len(test)} images at {size} pixels: {seconds}; {sizes}; {_memory() - memory:.2f} GB more"


def _memory() -> float:
    """Returns the most memory that this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of npz files")
    parser.add_argument("--names", nargs="*", default=["fashion_mnist"], help="of the npz files")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a folder for deltas and pages")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        out = args.out or Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        for found in pictures(args.data, args.names):
            print(measure(found, args.images, args.size, args.epochs, out))


if __name__ == "__main__":
    main()
