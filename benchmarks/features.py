"""What it saves to compute the frozen part's features once: the two figures of `petl.fit(..., cache=)`.

    python -m benchmarks.features
    python -m benchmarks.features --model vit_small_patch16_224 --images 256 --repeats 1

Noise images at random weights, since only time counts. A linear probe: 20 epochs on features, against one forward pass over the
images in evaluation mode. ``partial``, the last block: 10 epochs with features against 10 epochs without. The runs alternate, and
the medians count. Reading and augmenting images is left out of both sides; with files the gain is larger.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
from torch import nn
from torch.utils.data import TensorDataset

import petl

CLASSES = 10


def data(args: argparse.Namespace) -> TensorDataset:
    chance = torch.Generator().manual_seed(0)
    images = torch.randn(args.images, 3, args.size, args.size, generator=chance)
    return TensorDataset(images, torch.randint(CLASSES, (args.images,), generator=chance))


def model(args: argparse.Namespace, method: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"img_size": args.size} if args.set_size else {}
    return petl.wrap(timm.create_model(args.model, **options), method, num_classes=CLASSES)


def fitted(args: argparse.Namespace, images: TensorDataset, method: str, epochs: int, cache: bool) -> dict[str, Any]:
    """Seconds of one whole ``fit``, with all that it looks at before."""
    net = model(args, method)
    start = time.perf_counter()
    history = petl.fit(net, images, epochs=epochs, lr=1e-3, batch_size=args.batch, cache=cache, progress=False)
    return {
        "seconds": time.perf_counter() - start,
        "features": history.features,
        "loss": history.rows[-1]["train_loss"],
    }


@torch.no_grad()
def forward(args: argparse.Namespace, images: TensorDataset) -> dict[str, Any]:
    """Seconds of one pass of the whole model over the images, in evaluation mode."""
    net = model(args, "probe").eval()
    start = time.perf_counter()
    for part in images.tensors[0].split(args.batch):
        net(part)
    return {"seconds": time.perf_counter() - start}


def alternately(sides: dict[str, Callable[[], dict[str, Any]]], repeats: int) -> dict[str, dict[str, Any]]:
    """Each side's last result, with the median of its seconds, and all of them."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            found[name].append(sides[name]())
    seconds = {name: [result["seconds"] for result in results] for name, results in found.items()}
    return {name: {**found[name][-1], "seconds": median(seconds[name]), "all": seconds[name]} for name in sides}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.features", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tf_efficientnet_lite0", help="timm's name")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", type=int, default=224, help="side of the images")
    parser.add_argument("--set-size", action="store_true", help="build the model for that size, as ViTs need it")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, nargs=2, default=(20, 10), help="of the probe and of partial")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    images = data(args)
    probe, partial = args.epochs
    found = alternately(
        {
            "forward": lambda: forward(args, images),
            "probe": lambda: fitted(args, images, "probe", probe, True),
            "partial": lambda: fitted(args, images, "partial", partial, True),
            "partial, no cache": lambda: fitted(args, images, "partial", partial, False),
        },
        args.repeats,
    )
    seconds = {name: each["seconds"] for name, each in found.items()}
    ratios = {
        "probe / one forward pass": seconds["probe"] / seconds["forward"],
        "partial / partial without the cache": seconds["partial"] / seconds["partial, no cache"],
    }
    result = {"model": args.model, "images": args.images, "size": args.size, "ratios": ratios, "sides": found}
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
