"""The classes' share: how frequent each class is in the source and in the target, and whether that differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from petl.measures.aligned_frequencies import ALIGNED_ROUNDS, STARTS, aligned_draws, class_clouds, fitted_clouds
from petl.measures.label_shift import (
    MOST_WORK,
    Scaling,
    affordable_draws,
    bootstrapped_frequencies,
    estimated_frequencies,
    fitted_scaling,
    total_variation,
    variations_by_chance,
)
from petl.shifts.believed_mix import at_least_as_wide, believed_share, counted_interval, counted_variation
from petl.shifts.sides import Sides

BETTER_THAN_CHANCE = 1.5  # times: a classifier that knows less can't say how frequent classes are
MIX_DRAWS, LEAST_DRAWS = 200, 60  # fewer could not reach a p-value below .05 / 3
MORE_DRAWS, CLEARLY_CHANCE = 120, 0.1  # where the first draws leave a p-value below that
NARROWEST = 0.5  # of the classes' distances: where they are nearer each other, any frequencies explain the scores
ALLOWANCE = 0.1  # of the total variation: what a change of appearance alone moves the estimate by (docs/shift.md)


@dataclass(frozen=True)
class ClassMix:
    """Class frequencies of source and target.

    Attributes:
        source, target: Frequencies [K], each summing to 1: the prior that a correction divides by, and the new ones.
        intervals: 95 % intervals of ``target`` [K], never narrower than if the images had been counted.
        variation: The total variation: half of the summed absolute differences; 0 for equal frequencies, 1 without overlap.
        variation_interval: Its 95 % interval.
        p: The p-value of "the frequencies are equal".
        by: How the target's were found: "labels", "scores" (calibrated scores, EM) or "moved classes" (also by EM, where the
            images look different).
        believed: How much of the change from ``source`` to ``target`` is beyond chance, 0 to 1; a correction goes that far.
    """

    source: list[float]
    target: list[float]
    intervals: list[tuple[float, float]]
    variation: float
    variation_interval: tuple[float, float]
    p: float
    by: str
    believed: float


@dataclass(frozen=True)
class CalibratedScores:
    """Class probabilities of both sides, [n, K] and [m, K], the scaling that made them, and the source's mean [K]."""

    scaling: Scaling
    source: Tensor
    target: Tensor
    prior: Tensor


def calibrated_scores(sides: Sides) -> CalibratedScores | str:
    """Returns probabilities by bias-corrected temperature scaling, or why there are none: the classifier knows too little."""
    right = float((sides.scores.argmax(1) == sides.y).double().mean())
    chance = 1 / len(sides.y.unique())
    if right < BETTER_THAN_CHANCE * chance:
        return (
            f"the classifier is right on {right:.0%} of source images that it hasn't learned from, and chance is {chance:.0%}: "
            "that is too little to tell how frequent classes are; train the model longer, or label target images"
        )
    scaling = fitted_scaling(sides.scores, sides.y)
    source = scaling.probabilities(sides.scores)
    return CalibratedScores(scaling, source, scaling.probabilities(sides.target_scores), source.mean(0))


def mix_by_labels(sides: Sides, y: Tensor, *, seed: int) -> ClassMix:
    """Returns the mix where the target's classes [m] are known; p by permutations of the total variation."""
    classes, generator = len(sides.classes), torch.Generator().manual_seed(seed)
    both, n = torch.cat([sides.y, y]), len(sides.y)

    def variation(labels: Tensor) -> float:
        return total_variation(_shares(labels[:n], classes), _shares(labels[n:], classes))

    drawn = torch.tensor(
        [variation(both[torch.randperm(len(both), generator=generator)]) for _ in range(MIX_DRAWS)], dtype=torch.float64
    )
    again = torch.stack(
        [_shares(y[torch.randint(len(y), (len(y),), generator=generator)], classes) for _ in range(MIX_DRAWS)]
    )
    return _mix(_shares(sides.y, classes), _shares(y, classes), drawn, again, len(y), by="labels")


def mix_by_scores(found: CalibratedScores, *, seed: int) -> ClassMix:
    """Returns the mix by EM on calibrated scores; p against as many source images, drawn with replacement."""
    prior, images = found.prior, len(found.target)
    target = estimated_frequencies(found.target, prior)
    draws = affordable_draws(len(found.source) + images, len(prior), least=LEAST_DRAWS, most=MIX_DRAWS)
    chance = variations_by_chance(found.source, images, draws=draws, seed=seed)
    again = bootstrapped_frequencies(found.target, prior, draws=draws, seed=seed + 1)
    return _mix(prior, target, chance, again, images, by="scores")


def mix_of_moved_classes(sides: Sides, found: CalibratedScores, *, seed: int) -> ClassMix | str:
    """Returns the mix where the target looks different: the classes may all have moved alike in the space of scores.

    What is left of the appearance biases the estimate, so the total variation counts as different from `ALLOWANCE` on. Where the
    classes hardly differ in the target's scores, the answer is why nothing can be known.
    """
    clouds = class_clouds(sides.scores, sides.y)
    target, nearness, spread = fitted_clouds(clouds, sides.target_scores)
    if nearness < NARROWEST:
        return (
            f"the new images look so different that the classifier hardly tells their classes (its scores of them differ "
            f"{nearness:.0%} as much as the source's do); label some of them"
        )
    options: dict[str, Any] = {"nearness": nearness, "spread": spread}

    def by_chance(draws: int, seed: int) -> Tensor:
        same = aligned_draws(clouds, len(sides.z), draws=draws, seed=seed, **options)
        return (same - clouds.frequencies).abs().sum(1) / 2

    chance = by_chance(LEAST_DRAWS, seed)
    p = _share_at_least(chance + ALLOWANCE, total_variation(clouds.frequencies, target))
    if p < CLEARLY_CHANCE and _more_is_affordable(len(sides.z), len(target)):
        chance = torch.cat([chance, by_chance(MORE_DRAWS, seed + 2)])  # of 60 draws, one alone would decide
    again = aligned_draws(clouds, len(sides.z), frequencies=target, draws=LEAST_DRAWS, seed=seed + 1, **options)
    here = _mix(clouds.frequencies, target, chance + ALLOWANCE, again, len(sides.z), by="moved classes")
    return ClassMix(**{**vars(here), "source": found.prior.tolist()})


def _more_is_affordable(images: int, classes: int) -> bool:
    """Returns whether the moved classes' frequencies may be found in `MORE_DRAWS` more sets."""
    return MORE_DRAWS * STARTS * ALIGNED_ROUNDS * images * classes**2 <= MOST_WORK


def _mix(prior: Tensor, target: Tensor, chance: Tensor, again: Tensor, images: int, *, by: str) -> ClassMix:
    """Returns the mix from total variations by chance [draws], and from the frequencies in sets like the target [draws, K].

    Sets that are drawn from images of one class are all of that class: each interval is as wide as counting would make it.
    """
    variation = total_variation(prior, target)
    ends = torch.quantile(again, torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0).T.tolist()
    counted = [counted_interval(share, images) for share in target.tolist()]
    return ClassMix(
        prior.tolist(),
        target.tolist(),
        [at_least_as_wide((low, high), least) for (low, high), least in zip(ends, counted, strict=True)],
        variation,
        at_least_as_wide(_interval((again - prior).abs().sum(1) / 2), counted_variation(prior, target, images)),
        _share_at_least(chance, variation),
        by,
        believed_share(variation, chance),
    )


def _share_at_least(drawn: Tensor, observed: float) -> float:
    return (1 + int((drawn >= observed - 1e-12).sum())) / (1 + len(drawn))


def _interval(values: Tensor) -> tuple[float, float]:
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def _shares(y: Tensor, classes: int) -> Tensor:
    return torch.bincount(y, minlength=classes).double() / len(y)
