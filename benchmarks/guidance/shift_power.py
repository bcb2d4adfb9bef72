"""How large a change of class frequencies has to be, and how many new images it takes, until `petl.shift` sees it.

    python -m benchmarks.guidance.shift_power --data FOLDER --sets emoji_noto [--keep FOLDER]

A classifier in closed form on ``--source`` images; target images are drawn with replacement from the test images, as they are and
blurred, with class frequencies in a random direction (Dirichlet .5) at a given total variation from the source's. Counted is how
often the test of frequencies alone rejects at .05 / 3.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.guidance.shift import sides_of, source_rows
from benchmarks.guidance.shift_pools import Pool, kept_pool, sets
from petl.heads.closed_form import fitted_head
from petl.measures.aligned_frequencies import aligned_draws, class_clouds, fitted_clouds
from petl.measures.label_shift import estimated_frequencies, total_variation, variations_by_chance
from petl.shifts.class_mix import ALLOWANCE, calibrated_scores

LEVEL = 0.05 / 3
VARIATIONS = (0.2, 0.3, 0.4, 0.5, 0.6)


def changed(p: Tensor, variation: float, chance: np.random.Generator) -> Tensor:
    """Frequencies at that total variation from p."""
    while True:
        other = torch.from_numpy(chance.dirichlet([0.5] * len(p)))
        if (far := total_variation(p, other)) >= variation:
            return p + variation / far * (other - p)


def drawn(y: Tensor, q: Tensor, images: int, chance: np.random.Generator) -> Tensor:
    members = [np.flatnonzero(y.numpy() == k) for k in range(len(q))]
    return torch.tensor([chance.choice(members[k]) for k in chance.choice(len(q), images, p=q.numpy())])


def power(found: Pool, args: argparse.Namespace) -> None:
    rows = source_rows(found, args.source, np.random.default_rng([5, 0]))
    sides, _ = sides_of(found, args.source, (found.test, found.test_y), rows)
    head = fitted_head(sides.x, sides.y, found.classes, "auto")
    blurred = found.blurred.double() @ head.weight.T + head.bias
    scores, clouds = calibrated_scores(sides), class_clouds(sides.scores, sides.y)
    assert not isinstance(scores, str), scores
    right = float((sides.scores.argmax(1) == sides.y).double().mean())
    print(f"  {args.source} source images, the classifier is right on {right:.2f}", flush=True)
    p = clouds.frequencies
    for images in args.images:
        limit = float(variations_by_chance(scores.source, images, draws=200, seed=0).quantile(1 - LEVEL))
        moved_limit = None
        for variation in VARIATIONS:
            hits = [0, 0]
            for seed in range(args.trials):
                chance = np.random.default_rng([6, seed])
                chosen = drawn(found.test_y, changed(p, variation, chance), images, chance)
                q = estimated_frequencies(scores.target[chosen], scores.prior)
                hits[0] += total_variation(q, scores.prior) > limit
                q, nearness, spread = fitted_clouds(clouds, blurred[chosen])
                if moved_limit is None:
                    same = aligned_draws(clouds, images, nearness=nearness, spread=spread, draws=120)
                    moved_limit = ALLOWANCE + float(((same - p).abs().sum(1) / 2).quantile(1 - LEVEL))
                hits[1] += total_variation(q, p) > moved_limit
            told = ", ".join(
                f"{name} {hit / args.trials:.2f}" for name, hit in zip(("alike", "blurred"), hits, strict=True)
            )
            print(f"  {images} target images, total variation {variation}: seen {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--sets", nargs="*", default=["emoji_noto"])
    parser.add_argument("--backbone", default="lite0")
    parser.add_argument("--source", type=int, default=300)
    parser.add_argument("--images", type=int, nargs="*", default=[120, 300, 1000])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    for pictures in sets(args.data, args.sets):
        print(f"{pictures.name}, {args.backbone}", flush=True)
        power(kept_pool(pictures, args.backbone, args.keep), args)


if __name__ == "__main__":
    main()
