"""What `petl.correct` is worth on a model that was trained: accuracy of new images under other class mixes, before and after.

    python -m benchmarks.guidance.shift_trained --data FOLDER --sets fashion_mnist emoji_noto

EfficientNet-Lite0 is trained with petl's best recipe on ``--images`` images at ``--size`` pixels. `petl.shift` compares ``--val``
others, which the training hasn't seen, with 200 test images, whose classes are drawn from Dirichlet(.5) or are those of the
source; `petl.correct` and its undoing follow. The last columns count what `petl.shift` said.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import petl
from benchmarks.guidance.shift_pools import sets
from benchmarks.transfer.data import Pictures
from petl import demo

TARGET = 200


def prepared(found: Pictures, args: argparse.Namespace) -> tuple[nn.Module, TensorDataset, Tensor, np.ndarray]:
    """The trained model, images that it hasn't seen, and the test images with their classes."""
    model = demo.lite0()
    pipeline = petl.data.pipeline(model, size=args.size)
    chosen = np.random.default_rng(0).permutation(found.chosen(0, args.images + args.val, 0))
    train, val, test = (
        found.tensors(rows, pipeline)
        for rows in (chosen[: args.images], chosen[args.images :], np.flatnonzero(found.split == 1))
    )
    torch.manual_seed(0)
    petl.wrap(model, num_classes=len(found.classes))
    petl.fit(model, train, epochs=args.epochs, labels=list(found.classes), progress=False)
    return model, val, test.tensors[0], test.tensors[1].numpy()


def drawn(y: np.ndarray, mix: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    members = {k: [*chance.permutation(np.flatnonzero(y == k))] for k in range(len(mix))}
    return np.array([members[k].pop() for k in chance.choice(len(mix), TARGET, p=mix) if members[k]])


def gains(found: Pictures, args: argparse.Namespace) -> None:
    model, val, images, y = prepared(found, args)
    classes = len(found.classes)
    shares = np.bincount(val.tensors[1].numpy(), minlength=classes) / len(val)
    for cell in ("nothing differs", "class mixes"):
        rows, said = [], Counter[str]()
        for seed in range(args.mixes):
            chance = np.random.default_rng([4, seed])
            chosen = drawn(y, chance.dirichlet([0.5] * classes) if cell == "class mixes" else shares, chance)
            verdict, accuracies = corrected(model, val, images[chosen], y[chosen], seed)
            said[verdict] += 1
            rows.append(accuracies)
        print(f"{found.name}, {cell}: {described(np.array(rows))}; {dict(said)}", flush=True)


def corrected(
    model: nn.Module, val: TensorDataset, target: Tensor, y: np.ndarray, seed: int
) -> tuple[str, list[float]]:
    """The verdict, and the accuracy before, corrected, and corrected only where the verdict is of class frequencies."""
    shift = petl.shift(model, val, target, seen=False, seed=seed, progress=False)
    before = accuracy(model, target, y)
    if shift.correction is None:
        return shift.verdict, [before] * 3
    after = accuracy(petl.correct(model, shift), target, y)
    petl.correct(model, None)
    return shift.verdict, [before, after, after if shift.verdict in ("classes", "both") else before]


def described(table: np.ndarray) -> str:
    before, always, advised = table.mean(0)
    errors = [(table[:, k] - table[:, 0]).std(ddof=1) / len(table) ** 0.5 for k in (1, 2)]
    return (
        f"{before:.3f} before; corrected {always:.3f} ({always - before:+.3f} +- {errors[0]:.3f}); corrected where shift "
        f"advises it {advised:.3f} ({advised - before:+.3f} +- {errors[1]:.3f})"
    )


def accuracy(model: nn.Module, images: Tensor, y: np.ndarray) -> float:
    with torch.inference_mode():
        found = torch.cat([model(part).argmax(1) for part in images.split(64)])
    return float((found.numpy() == y).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of npz files")
    parser.add_argument("--sets", nargs="*", default=["digits"], help="names of npz files, or digits")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--val", type=int, default=200)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, help="petl's own number, unless said otherwise")
    parser.add_argument("--mixes", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for found in sets(args.data, args.sets):
        gains(found, args)


if __name__ == "__main__":
    main()
