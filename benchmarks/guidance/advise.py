"""What `petl.advise` says of sets of images: readings, verdict, alarms, BatchNorm gaps, and its seconds and memory.

    python -m benchmarks.guidance.advise                                 # scikit-learn's digits on EfficientNet-Lite0
    python -m benchmarks.guidance.advise --synthetic                     # the six synthetic tasks at 64 pixels
    python -m benchmarks.guidance.advise --data FOLDER --sets fashion_mnist=200 emoji_noto=400 --backbones FILE ...

FOLDER holds npz files as `benchmarks.transfer.data` reads them. Each set gives so many images of its training part, as even among
the classes as they allow. The largest resident memory is the process's so far, so that of the first row counts.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

import petl
from benchmarks.guidance.synthetic_tasks import SIDE, TASKS
from benchmarks.transfer.data import Backbone, Pictures, backbones, pictures
from petl.ranking.candidates import fitting_size


def built(backbone: Backbone, size: int) -> nn.Module:
    """The backbone for images of this size; where its file holds no classifier, one without."""
    try:
        return backbone.build(size)
    except RuntimeError:
        found: dict[str, Any] = {"file": str(backbone.weights)}
        return timm.create_model(backbone.name, pretrained=True, num_classes=0, pretrained_cfg_overlay=found)


def row(backbone: Backbone, found: Pictures, images: int, size: int, seed: int, *, shuffled: bool) -> dict[str, Any]:
    """What advise says, with its seconds."""
    size = fitting_size(backbone.name, size) or size  # a transformer's is a multiple of its patches
    model = built(backbone, size).eval()
    pipeline = petl.data.pipeline(model, size=size)
    data = found.tensors(found.chosen(0, images, seed), pipeline)
    if shuffled:
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
        data = torch.utils.data.TensorDataset(data.tensors[0], data.tensors[1][order])
    return measured(model, data, found.name + (" shuffled" if shuffled else ""), seed)


def synthetic_row(backbone: Backbone, name: str, seed: int) -> dict[str, Any]:
    """What advice says of a synthetic task."""
    model, task = built(backbone, SIDE).eval(), TASKS[name](seed=seed)
    return measured(model, task.tensors(petl.data.pipeline(model, size=SIDE)), name, seed)


def measured(model: nn.Module, data: Any, name: str, seed: int) -> dict[str, Any]:
    """What advice says, with its seconds."""
    start = time.perf_counter()
    advice = petl.advise(model, data, cache=False, progress=False, images=len(data), seed=seed)
    seconds = time.perf_counter() - start
    print(f"\n{name}: {advice}\n({seconds:.1f} seconds)", flush=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"set": name, "images": len(data), "seconds": seconds, "memory": memory, **advice.to_json()}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as markdown."""
    lines = [
        "| set | images | backbone | pretrained | random | raw pixels | verdict | alarm | best block | gap by thirds | s |"
    ]
    lines.append("|---|---:|---|---:|---:|---:|---|---|---|---|---:|")
    for one in rows:
        readings, profile = one["readings"], one["profile"]
        random = readings["random"]["accuracy"] if readings["random"] else float("nan")
        gaps = [profile[key] for key in ("first", "middle", "last")]
        said = " / ".join(f"{gap:.2f}" for gap in gaps) if profile["applicable"] else "no BatchNorm"
        scores = " | ".join(
            f"{value:.3f}" for value in (readings["pretrained"]["accuracy"], random, readings["raw"]["accuracy"])
        )
        verdict = f"{one['verdict']['transfer']} ({one['verdict']['comparison']['p']:.2g})"
        alarm = "yes" if any("pretrain" in text for text in one["alarms"]) else "no"
        lines.append(
            f"| {one['set']} | {one['images']} | {one['model']} | {scores} | {verdict} | {alarm} | {readings['best_block']} "
            f"| {said} | {one['seconds']:.1f} |"
        )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guidance.advise",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="folder of npz files [scikit-learn's digits]")
    parser.add_argument("--sets", nargs="*", default=["digits=200"], metavar="NAME=IMAGES", help="[%(default)s]")
    parser.add_argument("--backbones", nargs="*", type=Path, default=[], metavar="FILE", help="[the demo's Lite0]")
    parser.add_argument("--size", type=int, default=96, help="side of the images [%(default)s]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shuffled", action="store_true", help="also with shuffled labels")
    parser.add_argument("--synthetic", action="store_true", help="the six synthetic tasks instead")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write all figures to this JSON file")
    return parser.parse_args()


def all_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What advice says of every set on every backbone."""
    asked = dict(text.split("=") for text in args.sets)
    found = {one.name: one for one in pictures(args.data, list(asked) if args.data else [])}
    rows: list[dict[str, Any]] = []
    for backbone in backbones(args.backbones):
        if args.synthetic:
            rows += [synthetic_row(backbone, name, args.seed) for name in TASKS]
            continue
        for name, count in asked.items():
            for shuffled in (False, True) if args.shuffled else (False,):
                rows.append(row(backbone, found[name], int(count), args.size, args.seed, shuffled=shuffled))
    return rows


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    rows = all_rows(args)
    print(f"\n{table(rows)}\nlargest memory: {max(one['memory'] for one in rows) / 1e6:.0f} MB")
    if args.out:
        args.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
