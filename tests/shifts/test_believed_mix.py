"""How far a correction follows an estimate, and how wide intervals are where an estimate leaves no doubt."""

from __future__ import annotations

import pytest
import torch

from petl.evidence.intervals import binomial_interval
from petl.measures.label_shift import total_variation
from petl.shifts.believed_mix import believed_frequencies
from petl.shifts.class_mix import CalibratedScores, ClassMix, mix_by_labels, mix_by_scores
from petl.shifts.sides import Sides


def scores(y: torch.Tensor, classes: int, strength: float, seed: int) -> torch.Tensor:
    """Class scores [N, K] whose softmax is calibrated for equal frequencies: of Gaussian classes, that far apart."""
    points = torch.randn(len(y), classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return strength * (points + strength * torch.eye(classes, dtype=torch.float64)[y])


def found(y: torch.Tensor, classes: int = 4, strength: float = 1.5, seed: int = 0) -> ClassMix:
    source = scores(torch.arange(50 * classes) % classes, classes, strength, seed).softmax(1)
    target = scores(y, classes, strength, seed + 1000).softmax(1)
    return mix_by_scores(CalibratedScores(None, source, target, source.mean(0)), seed=seed)  # type: ignore[arg-type]


def believed(mix: ClassMix, images: int) -> torch.Tensor:
    return believed_frequencies(torch.tensor(mix.source), torch.tensor(mix.target), mix.believed, images)


def test_without_a_change_less_than_half_of_the_estimate_is_followed_and_of_a_large_one_nearly_all() -> None:
    same = [found(torch.arange(100) % 4, seed=seed) for seed in range(6)]
    assert sum(one.believed for one in same) / 6 < 0.3
    assert all(
        total_variation(torch.tensor(one.source), believed(one, 100)) <= one.variation * one.believed + 0.01
        for one in same
    )
    other = found(torch.tensor([0] * 80 + [1] * 10 + [2] * 5 + [3] * 5))
    assert other.believed > 0.9 and other.p < 0.02


@pytest.mark.parametrize("classes", [2, 4])
def test_one_class_alone_has_an_interval_and_leaves_the_others_possible(classes: int) -> None:
    """The bootstrap of images that are all of one class knows no doubt."""
    y = torch.zeros(80, dtype=torch.long)
    mix = found(y, classes, strength=6.0)
    low, high = binomial_interval(80, 80)
    assert mix.target[0] > 0.999 and mix.intervals[0][0] <= low + 1e-9 and mix.intervals[0][1] == high == 1
    assert all(one[0] <= 1e-6 and one[1] >= 1 - low - 1e-9 for one in mix.intervals[1:])
    assert mix.variation_interval[1] - mix.variation_interval[0] > 0.04
    target = believed(mix, 80)
    assert float(target.min()) >= 1 / (2 * 80) / (1 + classes / 160) and float(target.sum()) == pytest.approx(1)


def test_counted_frequencies_are_shrunk_by_what_permutations_show_and_a_missing_class_stays_possible() -> None:
    y = torch.arange(60) % 3
    z = torch.tensor([0] * 30 + [1] * 10)
    blank = torch.zeros(60, 3)
    mix = mix_by_labels(Sides(blank, y, blank[:40], z, ["a", "b", "c"], blank, blank[:40]), z, seed=0)
    assert mix.target == [0.75, 0.25, 0.0] and mix.by == "labels" and 0.5 < mix.believed < 1
    assert mix.intervals[2][0] == 0 and mix.intervals[2][1] >= binomial_interval(0, 40)[1]
    assert float(believed(mix, 40)[2]) >= 1 / 81
