"""What each verb of guidance costs on 1000 images at 96 pixels: seconds, CPU seconds and the most memory, on one core.

    python -m benchmarks.guidance.seconds --data FOLDER
    python -m benchmarks.guidance.seconds --only rank shift   # scikit-learn's digits, without --data

FOLDER holds npz files as benchmarks/transfer/data.py reads them. The images are written as PNG files, which each verb
reads; nothing is kept from verb to verb. The model is EfficientNet-Lite0 (`petl.demo`), for `shift`, `correct` and `report`
with a trained delta. Each verb runs in a process of its own: "GB before" is what that process had when the model and the
images were open, "GB at most" its peak.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import petl
from benchmarks.transfer.data import Pictures, pictures
from petl import demo

VAL = 250  # images of the folder's own val part
Call = Callable[[], Any]


def write(found: Pictures, images: int, folder: Path) -> None:
    """Writes ``images`` pictures to learn from, 250 that choose nothing, and as many new ones as there are, up to ``images``."""
    test = found.chosen(1, VAL + images, 0)
    order = np.random.default_rng(0).permutation(test)
    for part, rows in (("train", found.chosen(0, images, 0)), ("val", order[:VAL]), ("new", order[VAL:])):
        for row in rows:
            pixels, name = found.images[row], str(found.labels[row])
            place = folder / ("old" if part != "new" else "") / part / name
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))).save(
                place / f"{row}.png"
            )


def prepare(folder: Path, size: int) -> None:
    """Trains the deltas that `shift`, `correct` and `report` are asked about."""
    for name, methods in (("probe", "probe"), ("lora", ["norm", "lora"])):
        model = demo.lite0()
        data = opened(model, folder / "old", size, "train")
        petl.wrap(model, methods, num_classes=len(data.classes))
        petl.fit(model, data, epochs=1, start="probe", progress=False)
        petl.save(model, folder / f"{name}.safetensors")


def opened(model: Any, folder: Path, size: int, split: str | None) -> Any:
    return petl.data.dataset(folder, petl.data.pipeline(model, size=size, crop_pct=1.0), split=split)


def rank(folder: Path, size: int, budget: float) -> Call:
    model = demo.lite0()
    return lambda: petl.rank({"lite0": model}, folder / "old", size=size, cache=False, progress=False)


def advise(folder: Path, size: int, budget: float) -> Call:
    model = demo.lite0()
    data = _parts(model, folder, size)
    return lambda: petl.advise(model, data, cache=False, progress=False)


def compare(folder: Path, size: int, budget: float) -> Call:
    model = demo.lite0()
    data = _parts(model, folder, size)
    return lambda: petl.compare(model, data, seconds=budget, progress=False)


def shift(folder: Path, size: int, budget: float) -> Call:
    model = petl.load(folder / "probe.safetensors", demo.lite0())
    source, target = _sides(model, folder, size)
    return lambda: petl.shift(model, source, target, cache=False, progress=False).to_json()


def correct(folder: Path, size: int, budget: float) -> Call:
    model = petl.load(folder / "probe.safetensors", demo.lite0())
    found = petl.shift(model, *_sides(model, folder, size), images=200, progress=False)
    return lambda: petl.correct(model, found)


def report(folder: Path, size: int, budget: float) -> Call:
    model = petl.load(folder / "lora.safetensors", demo.lite0())
    data = _sides(model, folder, size)[1]
    return lambda: petl.report(model, data, folder / "page.html", images=1000, progress=False)


# each opens its model and images, and returns the call that is measured
VERBS: dict[str, Callable[[Path, int, float], Call]] = {
    one.__name__: one for one in (rank, advise, compare, shift, correct, report)
}


def _parts(model: Any, folder: Path, size: int) -> tuple[Any, Any]:
    return opened(model, folder / "old", size, "train"), opened(model, folder / "old", size, "val")


def _sides(model: Any, folder: Path, size: int) -> tuple[Any, Any]:
    return opened(model, folder / "old", size, "train"), opened(model, folder / "new", size, None)


def measured(folder: Path, size: int, budget: float, verb: str) -> dict[str, float]:
    """Runs in a process of its own."""
    torch.set_num_threads(1)
    call = VERBS[verb](folder, size, budget)
    before, wall, cpu = _memory("VmRSS"), time.perf_counter(), time.process_time()
    call()
    return {
        "seconds": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "before": before,
        "most": _memory("VmHWM"),
    }


def _memory(key: str) -> float:
    """Returns this process's memory in GB: VmRSS is what it has, VmHWM the most that it had; without Linux the latter."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9  # macOS counts bytes
    line = next(line for line in status.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of npz files [scikit-learn's digits]")
    parser.add_argument("--name", default="fashion_mnist", help="of the npz file")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--budget", type=float, default=600, help="seconds= of compare")
    parser.add_argument("--only", nargs="*", choices=list(VERBS), help="these verbs")
    args = parser.parse_args()
    found = pictures(args.data, [args.name])[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(found, args.images, folder)
        alone(prepare, folder, args.size)
        print(f"{found.name}, {args.images} images at {args.size} px\n")
        print("| verb | s | CPU s | GB before | GB at most |\n|---|---:|---:|---:|---:|", flush=True)
        for verb in args.only or VERBS:
            one = alone(measured, folder, args.size, args.budget, verb)
            print(
                f"| `{verb}` | {one['seconds']:.1f} | {one['cpu']:.1f} | {one['before']:.2f} | {one['most']:.2f} |",
                flush=True,
            )


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """Returns what a function returns in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


if __name__ == "__main__":
    main()
