"""Which kind of shift `petl.shift` finds, how often it is wrong, and what `petl.correct` is worth, on real images.

    python -m benchmarks.guidance.shift --data FOLDER [--backbone NAME:FILE] [--only size kinds correct seconds]
    python -m benchmarks.guidance.shift --sets digits    # scikit-learn's

FOLDER has npz files as benchmarks/transfer/data.py reads them. Features are computed once; all else is arithmetic on them. The
appearance change is a 3 x 3 blur and contrast x .8, applied before the enlargement; class mixes are drawn from Dirichlet(.5).
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import petl
from benchmarks.guidance.shift_pools import SIDE, Pool, kept_pool, sets, small_images
from benchmarks.transfer.data import Pictures
from petl import demo
from petl.heads.closed_form import fitted_head
from petl.measures.label_shift import estimated_frequencies
from petl.shifts.believed_mix import believed_frequencies
from petl.shifts.class_mix import calibrated_scores, mix_by_scores
from petl.shifts.sides import Sides
from petl.shifts.told_apart import frequency_ratio, tell_apart

CELLS = ("none", "classes", "appearance", "both")


def drawn(found: Pool, cell: str, count: int, source: Tensor, chance: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Target images of a cell, of the test images: with the source's frequencies, or those of a Dirichlet draw."""
    shares = torch.bincount(source, minlength=found.classes).double().numpy() / len(source)
    mix = chance.dirichlet([0.5] * found.classes) if cell in ("classes", "both") else shares
    members = {k: [*chance.permutation(np.flatnonzero(found.test_y.numpy() == k))] for k in range(found.classes)}
    rows = [members[k].pop() for k in chance.choice(found.classes, count, p=mix) if members[k]]
    features = found.blurred if cell in ("appearance", "both") else found.test
    return features[rows], found.test_y[rows]


def sides_of(found: Pool, count: int, target: tuple[Tensor, Tensor], rows: Tensor) -> tuple[Sides, Tensor]:
    x, y = found.train[rows], found.train_y[rows]
    head = fitted_head(x, y, found.classes, "auto")
    scores = target[0].double() @ head.weight.T + head.bias
    names = [str(k) for k in range(found.classes)]
    return Sides(x, y, target[0], None, names, head.left_out, scores), target[1]


def source_rows(found: Pool, count: int, chance: np.random.Generator) -> Tensor:
    """Training images with as many of each class as can be."""
    order = chance.permutation(len(found.train_y))
    turns = np.empty(len(order))
    for k in range(found.classes):
        members = order[found.train_y.numpy()[order] == k]
        turns[members] = np.arange(len(members))
    return torch.from_numpy(order[np.argsort(turns[order], kind="stable")][:count])


def kinds(found: Pool, seeds: range, count: int = 120) -> None:
    for cell in CELLS:
        verdicts: Counter[str] = Counter()
        for seed in seeds:
            chance = np.random.default_rng([1, seed])
            rows = source_rows(found, count, chance)
            sides, _ = sides_of(found, count, drawn(found, cell, count, found.train_y[rows], chance), rows)
            verdicts[tell_apart(sides, level=0.05, seed=seed).verdict] += 1
        print(f"  kinds, {count} a side, truth {cell}: {dict(verdicts)}", flush=True)


def size(found: Pool, splits: int, count: int = 120) -> None:
    """How often something is found in random splits of the training and test images together, of 64 axes for speed."""
    x, y = torch.cat([found.train, found.test]), torch.cat([found.train_y, found.test_y])
    x = (x - x.mean(0)) @ torch.linalg.eigh((x - x.mean(0)).double().T @ (x - x.mean(0)).double())[1][:, -64:].float()
    hits: Counter[str] = Counter()
    for seed in range(splits):
        order = torch.from_numpy(np.random.default_rng([2, seed]).permutation(len(y)))
        one = dataclasses.replace(found, train=x, train_y=y)
        target = x[order[count : 2 * count]], y[order[count : 2 * count]]
        sides, _ = sides_of(one, count, target, order[:count])
        told = tell_apart(sides, level=0.05, seed=seed)
        hits["verdict"] += told.verdict != "none"
        if seed % 50 == 49:
            print(f"  size, {seed + 1} splits: {dict(hits)}", flush=True)
        for name, test in (("features", told.features), ("matched", told.matched), ("frequencies", told.mix)):
            hits[name] += test is not None and test.p <= 0.05
    print(f"  size, {splits} splits, {count} a side: found {dict(hits)} (each test alone at .05)", flush=True)


def correct(found: Pool, count: int, seeds: range, target_count: int = 200) -> None:
    names = ("as it is", "EM alone", "calibrated", "corrected", "true q")
    for cell in ("none", "classes"):
        table = np.array([corrected(found, cell, count, target_count, seed) for seed in seeds])
        gaps = table[:, names.index("corrected")] - table[:, 0]
        figures = ", ".join(f"{name} {value:.3f}" for name, value in zip(names, table.mean(0), strict=True))
        gain = f"{gaps.mean():+.3f} +- {gaps.std(ddof=1) / len(gaps) ** 0.5:.3f}"
        print(f"  correct, {count} source, {len(gaps)} draws, {cell}: {figures}; gain {gain}", flush=True)


def corrected(found: Pool, cell: str, count: int, target_count: int, seed: int) -> list[float]:
    """The accuracy of one draw's target: as it is, by EM on the bare scores, calibrated, as petl.correct, by the truth."""
    chance = np.random.default_rng([3, seed])
    rows = source_rows(found, count, chance)
    sides, y = sides_of(found, count, drawn(found, cell, target_count, found.train_y[rows], chance), rows)
    scores = calibrated_scores(sides)
    assert not isinstance(scores, str), scores
    p, prior, mix = scores.target, scores.prior, mix_by_scores(scores, seed=seed)
    estimate = torch.tensor(mix.target, dtype=torch.float64)
    raw, source_raw = sides.target_scores.softmax(1), sides.scores.softmax(1).mean(0)
    truth = torch.bincount(y, minlength=found.classes).double() / len(y)
    options = (
        raw,
        raw * frequency_ratio(source_raw, estimated_frequencies(raw, source_raw)),
        p * frequency_ratio(prior, estimate),
        p * frequency_ratio(prior, believed_frequencies(prior, estimate, mix.believed, len(y))),
        p * frequency_ratio(prior, truth),
    )
    return [float((one.argmax(1) == y).double().mean()) for one in options]


def seconds(pictures: Pictures) -> None:
    """The whole of petl.shift and petl.correct on 1000 images a side at 96 px, with a probe on the demo's network."""
    import resource

    net = demo.lite0()
    rows = np.flatnonzero(pictures.split == 0)[:1000], np.flatnonzero(pictures.split == 1)[:1000]
    x, z = (small_images(pictures, one, blur=False, mean=0.5, deviation=0.5) for one in rows)
    y = torch.from_numpy(pictures.labels[rows[0]])
    model = petl.wrap(net, "probe", num_classes=len(pictures.classes))
    petl.fit(model, torch.utils.data.TensorDataset(x, y), start="probe", epochs=1, progress=False)
    start = time.process_time()
    found = petl.shift(model, torch.utils.data.TensorDataset(x, y), z, cache=False, progress=False)
    taken = time.process_time() - start
    petl.correct(model, found)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"  {len(x)} and {len(z)} images at {SIDE} px: {taken:.0f} CPU seconds, {peak:.2f} GB at most\n{found}",
        flush=True,
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--sets", nargs="*", default=["fashion_mnist"], help="names of npz files, or digits")
    parser.add_argument("--backbone", default="lite0", help="lite0, or NAME:FILE of timm")
    parser.add_argument("--only", nargs="*", default=["kinds", "size", "correct", "seconds"])
    parser.add_argument("--source", type=int, default=200, help="source images of the corrections")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--count", type=int, default=120, help="images a side of kinds and size")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--mixes", type=int, default=12)
    parser.add_argument("--first", type=int, default=0, help="the first seed of kinds and correct")
    parser.add_argument("--keep", type=Path, help="a folder that keeps the features for the next call")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    for pictures in sets(args.data, args.sets):
        print(f"{pictures.name}, {args.backbone}", flush=True)
        found = kept_pool(pictures, args.backbone, args.keep) if {*args.only} - {"seconds"} else None
        steps = {
            "kinds": (range(args.first, args.first + args.trials), args.count),
            "correct": (args.source, range(args.first, args.first + args.mixes)),
            "size": (args.splits, args.count),
        }
        for step, numbers in steps.items():
            if step in args.only and found is not None:
                {"kinds": kinds, "correct": correct, "size": size}[step](found, *numbers)
        if "seconds" in args.only:
            seconds(pictures)


if __name__ == "__main__":
    main()
