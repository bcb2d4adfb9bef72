r"""What `petl.rank` says of backbones, against the accuracy that a short training reaches with each.

    python -m benchmarks.guidance.rank --data FOLDER \
        --backbones mobilenetv2_100.safetensors vit_small_patch14_dinov2.safetensors
    python -m benchmarks.guidance.rank --data FOLDER --backbones ... --seconds

``--data`` holds npz files as benchmarks/transfer/data.py reads them. EfficientNet-Lite0 (`petl.demo`) and a copy of it with
random weights, whose batch norms have seen the training images, are candidates beside those of ``--backbones``. Every backbone
reads the same images at ``--size`` pixels in its own way. The training is a short `petl.fit` of `norm` and `lora` from the
classifier in closed form, with petl's rates. The order by each score is compared with the order by accuracy on test images, as
scipy's weightedtau does. The prior is timm's published ImageNet top-1; a network without pretraining has none and stands last,
one that timm publishes no top-1 of stands at the median of those that have one.

``--seconds``: what 1000 images cost, and the most memory that the process took.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset

import petl
from benchmarks.transfer.data import Pictures, backbones, pictures
from petl import demo
from petl.data.reopened import reopened
from petl.measures.rank_agreement import weighted_tau
from petl.ranking.published import published

CROP = {"crop_pct": 1.0}  # small pictures have no rim to spare
TAGS = {"tf_efficientnet_lite0": "tf_efficientnet_lite0.in1k", "mobilenetv2_100": "mobilenetv2_100.ra_in1k"}
RANDOM = "random copy"


class Photos(Dataset[Any]):
    """Some of the pictures as PIL images, which each backbone reads in its own way."""

    def __init__(self, source: Pictures, split: int, count: int, seed: int) -> None:
        chosen = source.chosen(split, count, seed)
        self.images, self.targets, self.classes = source.images[chosen], source.labels[chosen], list(source.classes)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        pixels = self.images[index]
        return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))), int(
            self.targets[index]
        )


def headless(name: str, file: Path, size: int) -> nn.Module:
    """A backbone of a weights file, without a classifier."""
    args: dict[str, Any] = {"img_size": round(size / 14) * 14} if "patch14" in name else {}
    overlay = {"file": str(file), "num_classes": 0}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **args)


def random_copy(photos: Photos, size: int) -> nn.Module:
    """EfficientNet-Lite0 with random weights, and batch norms with the statistics of these photos."""
    torch.manual_seed(0)
    model = timm.create_model(demo.BACKBONE, pretrained=False)
    pipeline = petl.data.pipeline(model, size=size, **CROP)
    read: Any = reopened(photos, pipeline)
    batch = torch.stack([read[index][0] for index in range(len(photos))])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        model.train()(batch)
    return model.eval()


def candidates(files: list[Path], photos: Photos, size: int) -> dict[str, nn.Module]:
    """The backbones by name."""
    found: dict[str, nn.Module] = {demo.BACKBONE: demo.lite0()}
    found |= {one.name: headless(one.name, one.weights, size) for one in backbones(files) if one.weights}
    return {**found, RANDOM: random_copy(photos, size)}


def tuned(model: nn.Module, train: Photos, test: Photos, args: argparse.Namespace) -> float:
    """The accuracy on test images after a short training."""
    torch.manual_seed(0)
    petl.wrap(model, ["norm", "lora"], num_classes=len(train.classes))
    record: Any = petl.record(model)
    fixed = "patch14" in str(record.backbone["name"])
    record.pipeline = petl.data.pipeline(model, size=None if fixed else args.size, **CROP)
    petl.fit(model, train, epochs=args.epochs, start="probe", progress=False)
    return petl.evaluate(model, test, progress=False).accuracy


def prior(names: list[str]) -> list[float]:
    """Published top-1 in the order of names; see above for those without one."""
    known = {name: published()[TAGS[name]].top1 or 0.0 for name in names if name in TAGS}
    middle = statistics.median(known.values())
    return [known.get(name, 0.0 if name == RANDOM else middle) for name in names]


def compared(source: Pictures, args: argparse.Namespace) -> dict[str, Any]:
    """The scores of all backbones on one set of images, their accuracies, and how far the orders agree."""
    train, test = (Photos(source, split, count, 0) for split, count in ((0, args.images), (1, args.test)))
    models = candidates(args.backbones, train, args.size)
    ranking = petl.rank(models, (train, test), images=args.images, size=args.size, pipeline=CROP, progress=False)
    rows = {row.name: {"score": row.score, "logme": row.logme, "h_score": row.h_score} for row in ranking.rows}
    for name, model in models.items():
        rows[name]["tuned"] = tuned(model, train, test, args)
        print(source.name, name, json.dumps(rows[name]), flush=True)
    names = list(rows)
    reached = [rows[name]["tuned"] for name in names]
    taus = {key: weighted_tau([rows[name][key] for name in names], reached) for key in ("score", "logme", "h_score")}
    taus["prior"] = weighted_tau(prior(names), reached)
    best = max(reached)
    return {
        "rows": rows,
        "taus": taus,
        "best": ranking.best,
        "regret": best - rows[ranking.best]["tuned"],
        "said": str(ranking),
    }


def seconds(source: Pictures, args: argparse.Namespace) -> dict[str, Any]:
    """What ranking on 1000 images costs."""
    train = Photos(source, 0, 1000, 0)
    models = candidates(args.backbones, Photos(source, 0, 100, 0), args.size)
    start = time.process_time()
    ranking = petl.rank(models, (train, Photos(source, 1, 500, 0)), size=args.size, pipeline=CROP, progress=False)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {
        "cpu_seconds": time.process_time() - start,
        "wall": ranking.seconds,
        "peak_gb": memory,
        "said": str(ranking),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--names", nargs="*", default=["fashion_mnist", "emoji_noto"])
    parser.add_argument("--backbones", type=Path, nargs="*", default=[])
    parser.add_argument("--images", type=int, default=160, help="few enough that none is dropped before all are read")
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seconds", action="store_true")
    args = parser.parse_args()
    for source in pictures(args.data, args.names):
        found = seconds(source, args) if args.seconds else compared(source, args)
        said = found.pop("said")
        print(f"{source.name}: {json.dumps(found)}\n{said}", flush=True)


if __name__ == "__main__":
    main()
