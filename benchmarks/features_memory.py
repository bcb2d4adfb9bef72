"""How much memory `petl.features` takes for many small images: the peak of a process of its own, above what it had before.

    python -m benchmarks.features_memory
    python -m benchmarks.features_memory --images 2000

The images are noise, made when they are read, so the data itself takes no memory. The peak is the resident size of the process,
which also holds the batch, the activations of the model and what libraries load when they are first used.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import timm
import torch
from torch import Tensor
from torch.utils.data import Dataset

import petl

MB = 1e6


class Noise(Dataset[Any]):
    """Images of noise with a class number, each made from its own seed when it is read."""

    def __init__(self, images: int, size: int):
        self.images, self.size = images, size

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        chance = torch.Generator().manual_seed(index)
        return torch.randn(3, self.size, self.size, generator=chance), index % 10


def peak() -> float:
    """Megabytes of this process, at most, so far."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size * (1 if sys.platform == "darwin" else 1024) / MB


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """One run in this process, after one on a few batches, which loads what is loaded once."""
    model = timm.create_model(args.model)
    petl.features(model, Noise(2 * args.batch, args.size), batch_size=args.batch, cache=False, progress=False)
    before, start = peak(), time.perf_counter()
    f = petl.features(model, Noise(args.images, args.size), batch_size=args.batch, progress=False)
    return {
        "images": len(f),
        "width": f.x.shape[1],
        "seconds": round(time.perf_counter() - start, 1),
        "features_mb": round((f.x.nbytes + (f.y.nbytes if f.y is not None else 0)) / MB, 1),
        "before_mb": round(before, 1),
        "added_mb": round(peak() - before, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=32, help="pixels of a side")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--model", default="test_resnet")
    parser.add_argument("--here", action="store_true", help="measure in this process")
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measured(args)))
        return
    command = [sys.executable, "-m", "benchmarks.features_memory", "--here"]
    for name in ("images", "size", "batch", "model"):
        command += [f"--{name}", str(getattr(args, name))]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(
        f"{found['images']} images of {args.size} px, {args.model}: {found['features_mb']} MB of features and labels; "
        f"the process grew by {found['added_mb']} MB over the {found['before_mb']} MB that it had, in {found['seconds']} s"
    )


if __name__ == "__main__":
    main()
