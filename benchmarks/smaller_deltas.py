"""What smaller deltas cost: trains on real images, saves with each ``dtype=``, loads again, and counts who is still right.

    python -m benchmarks.smaller_deltas --data FOLDER --keep deltas --seeds 3   # FOLDER: fashion_mnist.npz, emoji_noto.npz

The backbone is EfficientNet-Lite0 of the extra ``demo`` at 96 px. Trained deltas stay in ``--keep``, and are used again.
Accuracies are compared image by image; the standard error is that of the paired difference, over images and seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import petl
from benchmarks.transfer.data import Pictures, read
from petl.demo import lite0
from petl.evidence.intervals import standard_error

TASKS = ("fashion_mnist", "emoji_noto")
RECIPES: dict[str, Any] = {"lora": petl.LoRA(), "best": None}
DTYPES = ("float16", "bfloat16", "int8", "int4", "int3")
SIDE, TRAIN, TEST, BATCH, EPOCHS = 96, 500, 1000, 32, 5


def images(pictures: Pictures, model: nn.Module, split: int, seed: int) -> TensorDataset:
    """The images of a split: for a training those of its seed, of the test always the same."""
    pipeline = {**petl.data.pipeline(model), "input_size": (3, SIDE, SIDE)}
    count, seed = (TRAIN, seed) if split == 0 else (TEST, 0)
    return pictures.tensors(pictures.chosen(split, count, seed), pipeline)


def trained(pictures: Pictures, recipe: str, seed: int, keep: Path) -> Path:
    """The delta of a training, in float32; of an earlier call where it is kept."""
    path = keep / f"{pictures.name}-{recipe}-{seed}.safetensors"
    if path.exists():
        return path
    torch.manual_seed(seed)
    method = RECIPES[recipe]
    model = petl.wrap(lite0(), *([method] if method else []), num_classes=len(pictures.classes))
    data = images(pictures, model, 0, seed)
    petl.fit(model, data, epochs=EPOCHS, batch_size=BATCH, seed=seed, progress=False, labels=list(pictures.classes))
    return petl.save(model, path)


def right(model: nn.Module, data: TensorDataset) -> Tensor:
    """Whether the class of each image is predicted, bool [n]."""
    x, y = data.tensors
    with torch.inference_mode():
        return torch.cat([model.eval()(part).argmax(1) for part in x.split(50)]) == y


def measured(pictures: Pictures, recipe: str, seed: int, keep: Path) -> dict[str, Any]:
    """The bytes of the file, and who is right, for each dtype; of an earlier call where they are kept."""
    notes = keep / f"{pictures.name}-{recipe}-{seed}.json"
    known: dict[str, Any] = json.loads(notes.read_text()) if notes.exists() else {}
    path = trained(pictures, recipe, seed, keep)
    data = images(pictures, lite0(), 1, seed)
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("float32", *DTYPES):
            if dtype not in known:
                model = petl.load(path, lite0())
                small = petl.save(
                    model, Path(folder) / "small.safetensors", dtype=None if dtype == "float32" else dtype
                )
                answers = right(petl.load(small, lite0()), data)
                known[dtype] = {"bytes": small.stat().st_size, "right": answers.int().tolist()}
                notes.write_text(json.dumps(known))
    return known


def row(dtype: str, found: list[dict[str, Any]]) -> str:
    """A line of the table: size, share of float32, accuracy, and the difference with its standard error in points."""
    size, whole = (sum(one[name]["bytes"] for one in found) / len(found) for name in (dtype, "float32"))
    answers = torch.tensor([one[dtype]["right"] for one in found]).double()
    gaps = (answers - torch.tensor([one["float32"]["right"] for one in found]).double()).mean(0) * 100
    lost = "" if dtype == "float32" else f"{float(gaps.mean()):+.2f} ± {standard_error(gaps):.2f}"
    return f"| {dtype} | {size / 1e3:.0f} kB | {size / whole:.3f} | {100 * float(answers.mean()):.1f} | {lost} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smaller_deltas", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipe", nargs="*", default=list(RECIPES))
    parser.add_argument("--train", action="store_true", help="train only")
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    work = trained if options.train else measured
    found: dict[tuple[str, str], list[Any]] = {}
    for seed in range(options.seeds):
        for recipe in options.recipe:
            for name in TASKS:
                found.setdefault((name, recipe), []).append(
                    work(read(options.data / f"{name}.npz"), recipe, seed, options.keep)
                )
                print(name, recipe, seed, flush=True)
    for (name, recipe), parts in found.items() if not options.train else ():
        print(
            f"\n{name}, {recipe}, {len(parts)} seeds\n\n| dtype | file | of float32 | right, % | points |\n|---|---|---|---|---|"
        )
        print("\n".join(row(dtype, parts) for dtype in ("float32", *DTYPES)))


if __name__ == "__main__":
    main()
