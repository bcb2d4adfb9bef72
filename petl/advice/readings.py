"""How well raw pixels, the network with random weights, the pretrained one, and each of its blocks tell classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from petl.evidence.comparison import mcnemar, paired_bootstrap, paired_permutation
from petl.evidence.intervals import balanced_error
from petl.evidence.reading import ClassReading, read_classes

SIDES = (8, 32)  # of the raw pictures
LEVEL = 0.95  # of the interval of a difference
SURE = 0.05  # the p-value below which two readings differ
VERY_SURE = (
    0.01  # the same where one of several is chosen first: the best of the blocks, or whether anything is above chance
)
ABOVE = 2.33  # standard errors above chance, for the same probability on one side
Transfer = Literal["positive", "ambiguous", "negative"]


@dataclass(frozen=True)
class Score:
    """A leave-one-out reading: ``accuracy`` counts all classes alike, with its standard error; ``plain`` is the share of images.

    ``what`` was read, ``by`` which head ("ridge" or "knn"), ``numbers`` an image.
    """

    what: str
    by: str
    numbers: int
    accuracy: float
    error: float
    plain: float


@dataclass(frozen=True)
class PairedReading:
    """By how much the first of two readings is more accurate on the same images, classes counting alike.

    ``low`` and ``high`` are the ends of the paired bootstrap interval at ``level``, ``p`` that of the paired permutation test,
    ``mcnemar`` that of McNemar's exact test on plain hits.
    """

    first: str
    second: str
    difference: float
    error: float
    low: float
    high: float
    level: float
    p: float
    mcnemar: float


@dataclass(frozen=True)
class Verdict:
    """Whether pretraining helps: ``transfer``, from ``comparison`` of the pretrained network with the better of its baselines.

    ``above_chance``: whether the pretrained network, and the baseline, tell the classes better than by chance.
    """

    transfer: Transfer
    comparison: PairedReading
    chance: float
    above_chance: tuple[bool, bool]


@dataclass(frozen=True)
class Readings:
    """What was read of the measured images.

    Attributes:
        pretrained: By what the classifier takes.
        random: By the same of a copy with random weights; None where none could be made.
        random_by: How its weights were drawn, or why there is none.
        raw: By the images at a few pixels, of the two sizes the better.
        curve: By the pooled output of each block in depth order, and last by what the classifier takes; of a model without
            blocks the last one alone.
        best_block: The name of the best of them.
        earlier: That block against the last; None where the last is the best, or no block is better than chance.
    """

    pretrained: Score
    random: Score | None
    random_by: str
    raw: Score
    curve: tuple[Score, ...]
    best_block: str
    earlier: PairedReading | None


class ClassReader:
    """Reads features of the same N images, of which ``y`` [N] are the classes, and compares readings."""

    def __init__(self, y: Tensor, seed: int = 0) -> None:
        used, self.y = torch.unique(y, return_inverse=True)
        self.classes, self.seed = len(used), seed
        counts = torch.bincount(self.y)
        self.weights = (len(y) / self.classes) / counts[self.y].double()
        self.found: dict[str, ClassReading] = {}

    def read(self, what: str, x: Tensor) -> Score:
        """Reads features [N, D]; `compare` knows them by ``what``."""
        found = self.found[what] = read_classes(x, self.y, self.classes)
        error = balanced_error(found.right, self.y)
        return Score(what, found.by, x.shape[1], float(self.hits(what).mean()), error, found.accuracy)

    def hits(self, what: str) -> Tensor:
        """Returns 0 for images that were taken for another class, else a weight, [N]: the mean counts all classes alike."""
        return self.found[what].right.double() * self.weights

    def above_chance(self, what: str) -> bool:
        """Returns whether a reading is better than chance by more than its error."""
        error = balanced_error(self.found[what].right, self.y)
        return float(self.hits(what).mean()) - 1 / self.classes > ABOVE * error

    def compare(self, first: str, second: str) -> PairedReading:
        """Compares two readings of the same images."""
        one, other = self.hits(first), self.hits(second)
        found = paired_bootstrap(one, other, level=LEVEL, seed=self.seed)
        return PairedReading(
            first,
            second,
            found.mean,
            found.error,
            found.low,
            found.high,
            LEVEL,
            paired_permutation(one, other, seed=self.seed),
            mcnemar(self.found[first].right, self.found[second].right),
        )


def read_all(
    reader: ClassReader, x: Tensor, blocks: Mapping[str, Tensor], pictures: Tensor, random: tuple[Tensor | None, str]
) -> Readings:
    """Returns the readings of features ``x``, ``blocks``, ``pictures`` [N, C, 32, 32], and the random copy's with a note."""
    raw = max((_read_pictures(reader, pictures, side) for side in SIDES), key=lambda score: score.accuracy)
    pretrained = reader.read("pretrained", x)
    untrained = None if random[0] is None else reader.read("random weights", random[0])
    curve = (*(reader.read(name, table) for name, table in blocks.items()), pretrained)
    best = max(curve, key=lambda score: score.accuracy)
    ahead = best.accuracy > pretrained.accuracy and reader.above_chance(best.what)
    earlier = reader.compare(best.what, pretrained.what) if ahead else None
    return Readings(pretrained, untrained, random[1], raw, curve, best.what if earlier else pretrained.what, earlier)


def _read_pictures(reader: ClassReader, pictures: Tensor, side: int) -> Score:
    small = pictures if pictures.shape[-1] == side else F.adaptive_avg_pool2d(pictures, side)
    return reader.read(f"raw pixels ({side} x {side})", small.flatten(1))


def verdict_of(reader: ClassReader, readings: Readings) -> Verdict:
    """Returns whether pretraining helps: positive or negative where the paired tests say so, and the better one beats chance."""
    baselines = [score for score in (readings.raw, readings.random) if score is not None]
    baseline = max(baselines, key=lambda score: score.accuracy).what
    pretrained = readings.pretrained.what
    found = reader.compare(pretrained, baseline)
    above = reader.above_chance(pretrained), reader.above_chance(baseline)
    transfer: Transfer = "ambiguous"
    if found.p < SURE and found.low > 0 and above[0]:
        transfer = "positive"
    elif found.p < SURE and found.high < 0 and above[1]:
        transfer = "negative"
    return Verdict(transfer, found, 1 / reader.classes, above)
