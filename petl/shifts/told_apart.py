"""Which kind of shift it is: tests of the features, of the class frequencies, and of the features within classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from petl.measures.mmd import KernelTest, kernel_table, permuted_mmd, residual_test
from petl.measures.two_sample import Separation, common_components, separation, target_likeness
from petl.shifts.class_mix import (
    CalibratedScores,
    ClassMix,
    calibrated_scores,
    mix_by_labels,
    mix_by_scores,
    mix_of_moved_classes,
)
from petl.shifts.sides import Sides

TESTS = 3  # of features, of frequencies, of features within classes: Bonferroni


@dataclass(frozen=True)
class ToldApart:
    """What was found of two sides.

    Attributes:
        verdict: "none", "classes" (their frequencies), "appearance" (of images of the same class), "both", or "unknown".
        features: The test of all features: unbiased squared MMD, p-value by permutations.
        matched: The same once differing class frequencies are taken out of account; None where they can't be known.
        separation: How well a linear classifier tells the sides apart.
        mix: The class frequencies; None where they can't be known, and ``mix_refused`` says why.
        scores: The calibrated scores; None where the classifier knows too little.
        likeness: A logit for each image, the source's first: above 0 where it looks like the target.
    """

    verdict: str
    features: KernelTest
    matched: KernelTest | None
    separation: Separation
    mix: ClassMix | None
    mix_refused: str | None
    scores: CalibratedScores | None
    likeness: Tensor
    expected: Tensor | None


def tell_apart(sides: Sides, *, level: float, seed: int) -> ToldApart:
    """Returns what differs between two sides, at a level for all three tests together."""
    a, b = common_components(sides.x, sides.z)
    table, second = kernel_table(torch.cat([a, b])), _second(sides)
    features = permuted_mmd(table, second, seed=seed)
    scores = calibrated_scores(sides)
    known = None if isinstance(scores, str) else scores
    refused = scores if isinstance(scores, str) and sides.target_y is None else None
    mix, matched, expected = None, None, None
    if sides.target_y is not None:
        mix = mix_by_labels(sides, sides.target_y, seed=seed)
        matched = permuted_mmd(table, second, strata=torch.cat([sides.y, sides.target_y]), seed=seed)
    elif known is not None:
        mix = mix_by_scores(known, seed=seed)
        expected = expected_sides(known, mix)
        matched = residual_test(table, second, expected, seed=seed)
        if matched.p <= level:
            mix = mix_of_moved_classes(sides, known, seed=seed)
    looks_other = matched is not None and matched.p <= (level if sides.target_y is None else level / TESTS)
    verdict = _verdict(features, matched, mix, looks_other, level / TESTS)
    found = separation(a, b, seed=seed), mix, refused, known, target_likeness(a, b, seed=seed), expected
    return ToldApart(verdict, features, matched, *found)


def expected_sides(found: CalibratedScores, mix: ClassMix) -> Tensor:
    """Returns for each image [n + m] how probably it is a target image if nothing but the class frequencies differs.

    Of two sides with n and m images the odds are m / n times the sum over classes of probability x q / p.
    """
    n, m = len(found.source), len(found.target)
    ratio = frequency_ratio(found.prior, torch.tensor(mix.target, dtype=torch.float64))
    odds = torch.cat([found.source, found.target]) @ ratio * (m / n)
    return (odds / (1 + odds)).float()


def frequency_ratio(prior: Tensor, target: Tensor) -> Tensor:
    """Returns q / p [K]; 1 for a class that the source doesn't have, of which nothing is known."""
    there = prior > 1e-9
    return torch.where(there, target / prior.clamp_min(1e-9), 1.0)


def _verdict(
    features: KernelTest, matched: KernelTest | None, mix: ClassMix | None, looks_other: bool, level: float
) -> str:
    """Returns the kind of shift.

    The matched test of images without labels takes its frequencies from the same images, so it rejects far less often than its
    level (docs/shift.md): ``looks_other`` needs no correction for three tests there.
    """
    differs = features.p <= level
    if matched is None or mix is None:
        return "unknown" if differs else "none"
    if looks_other:
        return "both" if mix.p <= level else "appearance"
    if mix.p <= level:
        return "classes"
    if not differs:
        return "none"
    return "classes" if mix.p <= matched.p else "appearance"


def _second(sides: Sides) -> Tensor:
    return torch.cat([torch.zeros(len(sides.x)), torch.ones(len(sides.z))])
