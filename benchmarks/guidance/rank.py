r"""What `petl.rank` says of backbones, against the accuracy that a training with petl's best recipe reaches with each.

    python -m benchmarks.guidance.rank --data FOLDER --keep results.jsonl \
        --backbones mobilenetv2_100.safetensors vit_small_patch14_dinov2.safetensors

``--data`` holds npz files as benchmarks/transfer/data.py reads them. EfficientNet-Lite0 (`petl.demo`) and a copy of it with
random weights, whose batch norms have seen the training images, are candidates beside those of ``--backbones``, and so are
raw pixels. Every backbone reads the same images at ``--size`` pixels in its own way. The training is `petl.fit` with the best
recipe, its rates and its number of epochs; raw pixels get the best classifier in closed form. The order by each score is
compared with the order by accuracy on test images, as scipy's weightedtau does, also for draws of the test images with
replacement. The prior is timm's published ImageNet top-1; what has no pretraining has none and stands last, one that timm
publishes no top-1 of stands at the median of those that have one.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import petl
from benchmarks.guidance.trained_accuracy import CROP, Kept, Photos, trained
from benchmarks.transfer.data import Pictures, backbones, pictures
from petl import demo
from petl.data.reopened import reopened
from petl.evidence.intervals import accuracy_error
from petl.evidence.reading import read_classes
from petl.heads.closed_form import fitted_head
from petl.measures.h_score import h_score
from petl.measures.logme import logme
from petl.measures.rank_agreement import weighted_tau
from petl.ranking.published import published
from petl.ranking.raw_pixels import SIDES

TAGS = {"tf_efficientnet_lite0": "tf_efficientnet_lite0.in1k", "mobilenetv2_100": "mobilenetv2_100.ra_in1k"}
RANDOM, RAW = "random copy", "raw pixels"
SCORES = ("score", "logme", "h_score", "prior")


def headless(name: str, file: Path, size: int) -> nn.Module:
    """A backbone of a weights file, without a classifier."""
    args: dict[str, Any] = {"img_size": round(size / 14) * 14} if "patch14" in name else {}
    overlay = {"file": str(file), "num_classes": 0}
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **args)


def random_copy(photos: Photos, size: int, seed: int = 0) -> nn.Module:
    """EfficientNet-Lite0 with random weights, and batch norms with the statistics of these photos."""
    torch.manual_seed(seed)
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


def prior(names: list[str]) -> dict[str, float]:
    """Published top-1; see above for those without one."""
    known = {name: published()[TAGS[name]].top1 or 0.0 for name in names if name in TAGS}
    middle = statistics.median(known.values())
    return {name: known.get(name, 0.0 if name in (RANDOM, RAW) else middle) for name in names}


def raw_row(train: Photos, test: Photos) -> dict[str, Any]:
    """The scores of raw pixels, and which test images the best classifier in closed form gets right."""
    classes, y = len(train.classes), torch.from_numpy(train.targets)
    rows = []
    for side in SIDES:
        x, z = _pixels(train, side), _pixels(test, side)
        reading = read_classes(x, y, classes)
        head = fitted_head(x, y, classes, "auto")
        right = (z.double() @ head.weight.T + head.bias).argmax(1) == torch.from_numpy(test.targets)
        scores = {"score": reading.balanced, "logme": logme(x, y, classes), "h_score": h_score(x, y, classes)}
        rows.append({**scores, "right": right.int().tolist()})
    return max(rows, key=lambda row: row["score"])


def _pixels(photos: Photos, side: int) -> Tensor:
    images = torch.from_numpy(photos.images).permute(0, 3, 1, 2).float() / 255
    return F.adaptive_avg_pool2d(images.expand(-1, 3, -1, -1), side).flatten(1)


def measured(source: Pictures, draw: int, args: argparse.Namespace, kept: Kept) -> dict[str, dict[str, Any]]:
    """Scores and right test images of all candidates, of one draw of training and test images."""
    parts = (Photos(source, 0, args.images, draw), Photos(source, 1, args.test, draw))
    known = {"set": source.name, "images": args.images, "test": args.test, "size": args.size, "draw": draw}
    rows = {}
    for name, model in candidates(args.backbones, parts[0], args.size).items():
        of = {**known, "name": name, "what": "scores"}
        scores = kept.find(of) or kept.add(of, scored(name, model, parts, args))
        of = {**known, "name": name, "what": "trained", "epochs": args.epochs}
        reached = kept.find(of) or kept.add(of, trained(model, *parts, args.size, args.epochs, draw))
        rows[name] = {**scores, **reached}
        print(source.name, draw, name, json.dumps(shown(rows[name])), flush=True)
    rows[RAW] = raw_row(*parts)
    for name, value in prior(list(rows)).items():
        rows[name]["prior"] = value
    return rows


def scored(name: str, model: nn.Module, parts: Any, args: argparse.Namespace) -> dict[str, Any]:
    """What rank says of a backbone: alone, so that it isn't dropped before all images are read."""
    row = petl.rank({name: model}, parts, images=args.images, size=args.size, pipeline=CROP, progress=False).rows[0]
    return {"score": row.score, "logme": row.logme, "h_score": row.h_score}


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the accuracy and its standard error in place of the single images."""
    right = row["right"]
    accuracy = sum(right) / len(right)
    numbers = {key: round(value, 3) for key, value in row.items() if isinstance(value, float)}
    return {**numbers, "accuracy": round(accuracy, 3), "error": round(accuracy_error(accuracy, len(right)), 3)}


def agreement(rows: dict[str, dict[str, Any]], draws: int = 1000) -> dict[str, Any]:
    """The weighted tau of each score with the accuracy, and its mean and deviation over draws of the test images."""
    names = list(rows)
    right = np.array([rows[name]["right"] for name in names], dtype=float)
    chance = np.random.default_rng(0)
    again = [right[:, chance.integers(0, right.shape[1], right.shape[1])].mean(1) for _ in range(draws)]
    found = {}
    for key in SCORES:
        values = [rows[name][key] for name in names]
        taus = np.array([weighted_tau(values, one.tolist()) for one in again])
        found[key] = [
            round(float(v), 3) for v in (weighted_tau(values, right.mean(1).tolist()), taus.mean(), taus.std())
        ]
    best = max(names, key=lambda name: rows[name]["score"])
    gaps = right[right.mean(1).argmax()] - right[names.index(best)]
    error = float(gaps.std(ddof=1) / len(gaps) ** 0.5)
    return {
        "tau, mean and deviation over draws of the test": found,
        "best": best,
        "regret": [round(float(gaps.mean()), 3), round(error, 3)],
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--names", nargs="*", default=["fashion_mnist", "emoji_noto"])
    parser.add_argument("--backbones", type=Path, nargs="*", default=[])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--test", type=int, default=600)
    parser.add_argument("--draws", type=int, nargs="*", default=[0], help="which draws of the images")
    parser.add_argument("--epochs", type=int, help="petl's own number, unless said otherwise")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--keep", type=Path, help="a file for the results, from which the next call goes on")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    kept = Kept(args.keep)
    for source in pictures(args.data, args.names):
        for draw in args.draws:
            rows = measured(source, draw, args, kept)
            for name, row in rows.items():
                print(f"  {name}: {json.dumps(shown(row))}")
            print(f"{source.name}, draw {draw}: {json.dumps(agreement(rows))}", flush=True)


if __name__ == "__main__":
    main()
