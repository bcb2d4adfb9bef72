"""The parts of what `petl.rank` returns: a row for each candidate, raw pixels, and the best one on other images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields


@dataclass(frozen=True)
class Step:
    """The score of a candidate on so many images."""

    images: int
    score: float


@dataclass(frozen=True)
class RankedBackbone:
    """One candidate: how well its features tell the classes, what is published of it, and what it costs.

    Attributes:
        name: As it was given; of a model, its network's.
        score: The accuracy, or the balanced one, as `Ranking.measure` says, of leave-one-out predictions on ``images`` images.
        error: The score's standard error.
        accuracy, balanced: Both of the same predictions; ``by`` the head that made them, "ridge" or "knn".
        steps: The scores on the images so far, at each step.
        behind, behind_low, behind_high: How far it is behind the highest score, on the same images, and the interval.
        tie: Whether the interval covers 0, so that it may be as good.
        dropped_at: After how many images it was dropped; None for those that were read on all. ``why`` says why.
        logme, h_score: Other scores that are in use, for comparison; they decide nothing.
        top1, real, r, sketch: timm's published accuracies in percent: ImageNet, its reassessed labels, ImageNet-R and
            ImageNet-Sketch. None where none is published.
        params, gmacs, ms_per_image: Parameters; billions of multiply-adds, and milliseconds on this machine, for an image.
        licence: Of the weights; None where it isn't known. ``side``: of the images in pixels. ``width``: numbers of a feature.
    """

    name: str
    score: float
    error: float
    accuracy: float
    balanced: float
    by: str
    images: int
    steps: list[Step]
    behind: float
    behind_low: float
    behind_high: float
    tie: bool
    dropped_at: int | None
    why: str
    logme: float
    h_score: float
    top1: float | None
    real: float | None
    r: float | None
    sketch: float | None
    params: int
    gmacs: float
    ms_per_image: float = field(compare=False)
    licence: str | None = None
    side: int = 0
    width: int = 0


@dataclass(frozen=True)
class RawPixels:
    """The same score of the pixels alone, and how much better the best backbone is on the same images, with the interval."""

    score: float
    error: float
    accuracy: float
    balanced: float
    by: str
    images: int
    gain: float
    gain_low: float
    gain_high: float


@dataclass(frozen=True)
class HeldOut:
    """The best backbone's score on images that chose nothing, by the same head; ``images`` is their number."""

    score: float
    error: float
    accuracy: float
    balanced: float
    images: int
    source: str


def by_reason(failed: Mapping[str, str]) -> dict[str, list[str]]:
    """Returns the names of candidates by the reason why they weren't measured, so that each is said once.

    >>> by_reason({"a": "no network", "b": "no weights", "c": "no network"})
    {'no network': ['a', 'c'], 'no weights': ['b']}
    """
    found: dict[str, list[str]] = {}
    for name, why in failed.items():
        found.setdefault(why, []).append(name)
    return found


PUBLISHED_FIELDS = tuple(one.name for one in fields(RankedBackbone) if one.name in ("top1", "real", "r", "sketch"))
