"""What `petl.advise` says of sets of images: readings, verdict, alarms, BatchNorm gaps, and its seconds and memory.

    python -m benchmarks.guidance.advise                                 # scikit-learn's digits on EfficientNet-Lite0
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
from benchmarks.transfer.data import Backbone, Pictures, backbones, pictures


def built(backbone: Backbone) -> nn.Module:
    """The backbone; where its file holds no classifier, one without."""
    try:
        return backbone.build()
    except RuntimeError:
        found: dict[str, Any] = {"file": str(backbone.weights)}
        return timm.create_model(backbone.name, pretrained=True, num_classes=0, pretrained_cfg_overlay=found)


def row(backbone: Backbone, found: Pictures, images: int, size: int, seed: int, *, shuffled: bool) -> dict[str, Any]:
    """What advise says, with its seconds."""
    model = built(backbone).eval()
    pipeline = petl.data.pipeline(model, size=backbone.size if backbone.size % 14 == 0 else size)
    data = found.tensors(found.chosen(0, images, seed), pipeline)
    if shuffled:
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
        data = torch.utils.data.TensorDataset(data.tensors[0], data.tensors[1][order])
    start = time.perf_counter()
    advice = petl.advise(model, data, cache=False, progress=False, images=images, seed=seed)
    seconds = time.perf_counter() - start
    print(f"\n{advice}\n({seconds:.1f} seconds)", flush=True)
    return {
        "set": found.name + (" shuffled" if shuffled else ""),
        "images": len(data),
        "seconds": seconds,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        **advice.to_json(),
    }


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


def main() -> None:
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
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write all figures to this JSON file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    asked = dict(text.split("=") for text in args.sets)
    found = {one.name: one for one in pictures(args.data, list(asked) if args.data else [])}
    rows = []
    for backbone in backbones(args.backbones):
        for name, count in asked.items():
            for shuffled in (False, True) if args.shuffled else (False,):
                rows.append(row(backbone, found[name], int(count), args.size, args.seed, shuffled=shuffled))
    print(f"\n{table(rows)}\nlargest memory: {max(one['memory'] for one in rows) / 1e6:.0f} MB")
    if args.out:
        args.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
