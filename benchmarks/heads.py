"""A probe in closed form against the same probe by gradient: seconds and accuracy, on images that come with the demo.

    python -m benchmarks.heads
    python -m benchmarks.heads --size 96 --per-class 20 --draws 10 --test 899

scikit-learn's digits and EfficientNet-Lite0 with ImageNet weights (`petl.demo`). Each draw takes so many images of each class
from the training half; all sides get the same images, in turn, and are measured on the same test images. Seconds are those of a
whole `petl.fit`, with the pass over the images; ``pass`` is that pass alone. Means over the draws with their standard errors, and
the difference to the gradient, paired by draw.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Subset, TensorDataset

import petl
from petl import demo
from petl.evidence.intervals import standard_error

SIDES: dict[str, tuple[petl.Probe, dict[str, Any]]] = {
    "by gradient": (petl.Probe(solver="sgd"), {"lr": 1e-2, "epochs": 30}),
    "closed form": (petl.Probe(), {}),
    "ridge": (petl.Probe(solver="ridge"), {}),
    "lda": (petl.Probe(solver="lda"), {}),
    "prototypes": (petl.Probe(solver="prototypes"), {}),
    "all layers": (petl.Probe(layers="all"), {}),
}


def drawn(labels: torch.Tensor, per_class: int, seed: int) -> list[int]:
    """The numbers of so many images of each class."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chosen = [order[labels[order] == number][:per_class] for number in labels.unique()]
    return torch.cat(chosen).sort().values.tolist()


def fitted(side: str, train: TensorDataset, test: Any) -> dict[str, Any]:
    """Seconds of the fit, and the accuracy on the test images."""
    method, options = SIDES[side]
    torch.manual_seed(0)
    model = petl.wrap(demo.lite0(), method, num_classes=10)
    start = time.perf_counter()
    history = petl.fit(model, train, progress=False, **options)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "accuracy": petl.evaluate(model, test, progress=False).accuracy, "head": history.head}


@torch.no_grad()
def passed(train: TensorDataset) -> dict[str, Any]:
    """Seconds of one forward pass over the training images."""
    model = demo.lite0()
    start = time.perf_counter()
    for part in train.tensors[0].split(32):
        model(part)
    return {"seconds": time.perf_counter() - start}


def mean(values: list[float]) -> dict[str, float]:
    return {"mean": sum(values) / len(values), "error": standard_error(torch.tensor(values))}


def summary(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """For each side its seconds and accuracy, and how much more accurate it is than the gradient, paired by draw."""
    rows: dict[str, Any] = {}
    for side, results in found.items():
        rows[side] = {"seconds": mean([result["seconds"] for result in results])}
        if side in SIDES:
            pairs = zip(results, found["by gradient"], strict=True)
            rows[side]["accuracy"] = mean([result["accuracy"] for result in results])
            rows[side]["gain"] = mean([one["accuracy"] - other["accuracy"] for one, other in pairs])
    return rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.heads", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--per-class", type=int, default=5, help="training images of each class [%(default)s]")
    parser.add_argument("--draws", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--test", type=int, default=300, help="test images [%(default)s]")
    parser.add_argument("--size", type=int, default=64, help="side of the images [%(default)s]")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    train, test = demo.digits(args.size, channels=3)
    held = Subset(test, range(min(args.test, len(test))))
    found: dict[str, list[dict[str, Any]]] = {"pass": [], **{side: [] for side in SIDES}}
    for draw in range(args.draws):
        chosen = drawn(train.labels, args.per_class, draw)
        part = TensorDataset(train.images[chosen], train.labels[chosen])
        found["pass"].append(passed(part))
        for side in [*SIDES][:: -1 if draw % 2 else 1]:
            found[side].append(fitted(side, part, held))
    rows = summary(found)
    for side, row in rows.items():
        cells = [f"{name} {value['mean']:.3f} +- {value['error']:.3f}" for name, value in row.items()]
        print(f"{side:12} {'  '.join(cells)}")
    if args.out:
        args.out.write_text(json.dumps({"arguments": vars(args) | {"out": None}, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
