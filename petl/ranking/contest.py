"""Halving in images: all candidates on a few, those that may still be the best on more, and ties told from differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from petl.errors import ITEM, PetlError, StateError, listing, shortened
from petl.evidence.balanced_comparison import balanced_bootstrap
from petl.evidence.comparison import Difference, paired_bootstrap
from petl.evidence.reading import ClassReading
from petl.ranking.contenders import Contender, Options
from petl.ranking.ranked_images import RankedImages
from petl.ranking.results import by_reason
from petl.wrapping.named_backbones import NOT_FETCHED, NotFetched

LEVEL = 0.9  # of the intervals that decide
UNEVEN = 1.5  # how many times as large as the smallest class the largest may be


@dataclass(frozen=True)
class Measure:
    """The score that decides: the accuracy, or the balanced one where classes are uneven; compared on the same images."""

    balanced: bool
    classes: int

    @classmethod
    def of(cls, y: Tensor, classes: int) -> Measure:
        counts = torch.bincount(y, minlength=classes)
        counts = counts[counts > 0]
        return cls(int(counts.max()) > UNEVEN * int(counts.min()), classes)

    @property
    def name(self) -> str:
        return "balanced accuracy" if self.balanced else "accuracy"

    def score(self, reading: ClassReading) -> float:
        return reading.balanced if self.balanced else reading.accuracy

    def compare(self, first: Tensor, second: Tensor, y: Tensor, seed: int) -> Difference:
        """Returns how much better the first one's right answers (bool [N]) are than the second one's on the same images."""
        if self.balanced:
            return balanced_bootstrap(first, second, y, self.classes, level=LEVEL, seed=seed)
        return paired_bootstrap(first.double(), second.double(), level=LEVEL, seed=seed)


@dataclass
class Contest:
    """Who is still in, in the order of the last scores, who was dropped, and who couldn't be had, with the reasons."""

    images: RankedImages
    measure: Measure
    seed: int
    alive: list[Contender]
    dropped: list[Contender] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    behind: dict[str, Difference] = field(default_factory=dict)
    error: Exception | None = None

    @property
    def leader(self) -> Contender:
        return self.alive[0]

    @property
    def rows(self) -> np.ndarray:
        """The numbers of the images that all who are still in have been read on."""
        return self.leader.rows

    def run(self, options: Options, after: Callable[[int], object]) -> None:
        """Goes through all steps; ``after`` is called with the number of images whenever a candidate has been looked at.

        Raises:
            PetlError: no candidate can be had; with one candidate, its own error.
        """
        steps = self.images.steps if len(self.alive) > 1 else self.images.steps[-1:]
        seen = np.empty(0, dtype=np.int64)
        for step in steps:
            self._look(np.setdiff1d(step, seen), options, after)
            if step is steps[-1]:
                self.images.refuse_few(self.rows)
            self._compare()
            if step is not steps[-1]:
                self._drop()
            seen = step

    def _look(self, rows: np.ndarray, options: Options, after: Callable[[int], object]) -> None:
        left: list[Contender] = []
        for contender in self.alive:
            try:
                contender.look_at(self.images.train, rows, options)
                left.append(contender)
            except Exception as error:  # a model's own code runs, timm's downloads, and the readers of a dataset
                self._note_failure(contender, error)
            after(len(rows))
        self._keep(left)
        common = left[0].rows
        for contender in left[1:]:
            common = np.intersect1d(common, contender.rows)
        for contender in left:
            contender.restrict(common)

    def _compare(self) -> None:
        """Reads all who are in, orders them by their scores, and compares each with the first."""
        left: list[Contender] = []
        for contender in self.alive:
            try:
                score = self.measure.score(contender.read(self.images.train.y, self.measure.classes))
                contender.tested.append((len(contender.rows), score))
                left.append(contender)
            except (PetlError, ValueError) as error:
                self._note_failure(contender, error)
        self._keep(sorted(left, key=lambda one: -one.tested[-1][1]))
        y = self.images.train.y[torch.from_numpy(self.rows)]
        for contender in self.alive:
            first, second = self.leader.reading, contender.reading
            assert first is not None and second is not None, "all were read above"
            self.behind[contender.name] = self.measure.compare(first.right, second.right, y, self.seed)

    def _drop(self) -> None:
        """Drops those whose interval lies below the leader's score."""
        for contender in self.alive[1:]:
            gap = self.behind[contender.name]
            if gap.low > 0:
                contender.dropped_at = gap.count
                interval = f"{LEVEL:.0%} interval {gap.low:.3f} to {gap.high:.3f}"
                contender.why = f"{gap.mean:.3f} below {self.leader.name} on {gap.count} images ({interval})"
        self.dropped += [one for one in self.alive if one.dropped_at]
        self.alive = [one for one in self.alive if not one.dropped_at]

    def _note_failure(self, contender: Contender, error: Exception) -> None:
        if isinstance(error, NotFetched):
            self.failed[contender.name], self.error = NOT_FETCHED, error
            return
        words = " ".join(str(error).split()) or type(error).__name__
        self.failed[contender.name] = shortened(
            words if isinstance(error, PetlError) else f"{type(error).__name__}: {words}", 4 * ITEM
        )
        self.error = error

    def _keep(self, left: list[Contender]) -> None:
        self.alive = left
        if left:
            return
        if len(self.failed) == 1 and isinstance(self.error, PetlError):
            raise self.error
        alike = by_reason(self.failed)
        reasons = "; ".join(f"{listing(names, 3)}: {why}" for why, names in alike.items())
        raise StateError(f"no candidate could be measured: {reasons}") from self.error

    @property
    def ties(self) -> list[Contender]:
        """Those that may be as good as the leader, with the leader."""
        return [one for one in self.alive if one is self.leader or self.behind[one.name].low <= 0]


def preferred(ties: list[Contender]) -> list[Contender]:
    """Returns candidates of equal score in the order of timm's published accuracy; where one lacks it, the cheaper comes first.

    The cost are the multiply-adds of an image, then the parameters.
    """
    left, ordered = list(ties), []
    while left:
        known = [one for one in left if one.candidate.results.top1 is not None]
        best = min(known, key=lambda one: (-(one.candidate.results.top1 or 0), _cost(one)), default=None)
        rivals = [one for one in left if one.candidate.results.top1 is None] + ([best] if best else [])
        ordered.append(min(rivals, key=_cost))
        left.remove(ordered[-1])
    return ordered


def _cost(contender: Contender) -> tuple[float, int]:
    price = contender.price
    return (price.gmacs, price.params) if price else (0.0, 0)
