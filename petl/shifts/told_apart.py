"""Which kind of shift it is: tests of the features, of the class frequencies, and of the features within classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from petl.measures.mmd import PERMUTATIONS, KernelTest, drawn_residuals, kernel_table, permuted_mmd, residual_test
from petl.measures.two_sample import Separation, common_components, separation, target_likeness
from petl.shifts.class_mix import (
    CalibratedScores,
    ClassMix,
    calibrated_scores,
    mix_by_labels,
    mix_by_scores,
    mix_of_moved_classes,
)
from petl.shifts.expected_sides import ExpectedSides
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
        expected: Which images the class frequencies alone would put on which side; None where labels did, or nothing can.
    """

    verdict: str
    features: KernelTest
    matched: KernelTest | None
    separation: Separation
    mix: ClassMix | None
    mix_refused: str | None
    scores: CalibratedScores | None
    likeness: Tensor
    expected: ExpectedSides | None


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
        expected = ExpectedSides(torch.cat([known.source, known.target]), len(known.source))
        residuals = drawn_residuals(second, expected, draws=expected.draws(PERMUTATIONS), seed=seed)
        matched = residual_test(table, residuals)
        if matched.p <= level / TESTS:
            found = mix_of_moved_classes(sides, known, seed=seed)
            mix, refused = (None, found) if isinstance(found, str) else (found, None)
    verdict = _verdict(features, matched, mix, level / TESTS)
    apart, likeness = separation(a, b, seed=seed), target_likeness(a, b, seed=seed)
    return ToldApart(verdict, features, matched, apart, mix, refused, known, likeness, expected)


def frequency_ratio(prior: Tensor, target: Tensor) -> Tensor:
    """Returns q / p [K]; 1 for a class that the source doesn't have, of which nothing is known."""
    there = prior > 1e-9
    return torch.where(there, target / prior.clamp_min(1e-9), 1.0)


def _verdict(features: KernelTest, matched: KernelTest | None, mix: ClassMix | None, level: float) -> str:
    """Returns the kind of shift, each test at this level."""
    differs = features.p <= level
    if matched is not None and matched.p <= level:
        return "both" if mix is not None and mix.p <= level else "appearance"
    if matched is None or mix is None:
        return "unknown" if differs else "none"
    if mix.p <= level:
        return "classes"
    if not differs:
        return "none"
    return "classes" if mix.p <= matched.p else "appearance"


def _second(sides: Sides) -> Tensor:
    return torch.cat([torch.zeros(len(sides.x)), torch.ones(len(sides.z))])
