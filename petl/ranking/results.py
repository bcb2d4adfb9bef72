"""`Ranking`: what `petl.rank` returns."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from petl.errors import StateError, near
from petl.findings import Findings

MEASURED_TIMES = ("ms_per_image", "seconds")  # differ from run to run; everything else is repeatable


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


@dataclass(frozen=True, repr=False)
class Ranking(Findings):
    """What `petl.rank` found. It prints as a table and sentences; `to_json` has every number.

    Attributes:
        rows: A `RankedBackbone` for each candidate that was measured, the best first: those that tie with the highest score by
            timm's published accuracy, then cost; then the others by score; then those that were dropped.
        best: The name of the first. ``ties``: the names of all that tie with the highest score, the best among them.
        measure: "accuracy" or "balanced accuracy".
        images: Images that the last ones were read on, of ``total`` to learn from; ``classes``: how many of each class.
        raw_pixels: What the pixels alone reach.
        held_out: The best one's score on images that chose nothing; None where there are none, and ``held_out_note`` says why.
        left_out: Candidates that weren't measured, with the reasons.
        considered: How many pretrained weights of timm a filter looked at; 0 without one.
        alarms: What should stop you. ``warnings``: licences, and how far the scores can be trusted.
        prior: Where the published accuracies come from, with the date.
        seconds: That it took.
    """

    rows: list[RankedBackbone]
    best: str
    ties: list[str]
    measure: str
    images: int
    total: int
    classes: dict[str, int]
    raw_pixels: RawPixels
    held_out: HeldOut | None
    held_out_note: str
    left_out: dict[str, str]
    considered: int
    alarms: list[str]
    warnings: list[str]
    prior: str
    seed: int
    seconds: float = field(compare=False, default=0.0)

    def __getitem__(self, name: str) -> RankedBackbone:
        """Returns the row of a candidate.

        Raises:
            StateError: none was measured under this name.
        """
        for row in self.rows:
            if row.name == name:
                return row
        names = [row.name for row in self.rows]
        raise StateError(f"{name!r} was not measured{near(str(name), names)}; there are {', '.join(names)}")

    def sentences(self) -> list[str]:
        from petl.ranking.sentences import ranking_lines

        return ranking_lines(self)

    def to_json(self) -> dict[str, Any]:
        """Returns every field as plain values; ``measured_times`` names those that are times of this run."""
        return {**super().to_json(), "measured_times": list(MEASURED_TIMES)}


PUBLISHED_FIELDS = tuple(one.name for one in fields(RankedBackbone) if one.name in ("top1", "real", "r", "sketch"))
