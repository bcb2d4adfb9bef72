"""How large a change of class frequencies has to be, and how many new images it takes, until `petl.shift` sees it.

    python -m benchmarks.guidance.shift_power --data FOLDER --sets emoji_noto [--keep FOLDER]

A classifier in closed form on ``--source`` images; target images are drawn with replacement from the test images, as they are and
blurred, with class frequencies in a random direction (Dirichlet .5) at a given total variation from the source's. Counted is how
often the test of frequencies alone rejects at .05 / 3.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

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
    for images in args.images:
        limit = float(variations_by_chance(scores.source, images, draws=200, seed=0).quantile(1 - LEVEL))
        moved_limit = None
        for variation in VARIATIONS:
            alike, moved = [], []
            for seed in range(args.trials):
                chance = np.random.default_rng([6, seed])
                q = changed(clouds.frequencies, variation, chance)
                chosen = drawn(found.test_y, q, images, chance)
                now = estimated_frequencies(scores.target[chosen], scores.prior)
                alike.append(total_variation(now, scores.prior) > limit)
                fitted = fitted_clouds(clouds, blurred[chosen])
                moved_limit = moved_limit or limit_when_moved(clouds, images, fitted)
                moved.append(total_variation(fitted[0], clouds.frequencies) > moved_limit)
            told = f"seen alike {np.mean(alike):.2f}, blurred {np.mean(moved):.2f}"
            print(f"  {images} target images, total variation {variation}: {told}", flush=True)


def limit_when_moved(clouds: Any, images: int, fitted: Any) -> float:
    """The total variation that counts as a change where the classes have moved."""
    _, nearness, spread = fitted
    same = aligned_draws(clouds, images, nearness=nearness, spread=spread, draws=120)
    return ALLOWANCE + float(((same - clouds.frequencies).abs().sum(1) / 2).quantile(1 - LEVEL))


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
