"""The rules of a comparison, as arithmetic on scores: who stays in, who is in the final, and who wins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from petl.evidence.intervals import standard_error

FEWEST_KEPT, MOST_FINALISTS = 2, 4
ROUNDING = 1e-9  # of a mean gap that is as large as the margin


@dataclass(frozen=True)
class Standing:
    """Where a setting stands among those on the same images: ``gap`` is how far it is behind the leader, ``error`` paired."""

    name: str
    score: float
    gap: float
    error: float

    @property
    def tied(self) -> bool:
        """Returns whether the setting is within one standard error of the leader."""
        return self.gap <= self.error or self.gap == 0


def standings(scores: Mapping[str, Tensor], losses: Mapping[str, float]) -> list[Standing]:
    """Returns all settings, the best first: by mean score, then by the loss on the same images, then in their order.

    >>> import torch
    >>> scores = {"a": torch.tensor([1.0, 0.0, 1.0]), "b": torch.tensor([1.0, 1.0, 1.0])}
    >>> [(one.name, round(one.gap, 3), one.tied) for one in standings(scores, {"a": 0.1, "b": 0.2})]
    [('b', 0.0, True), ('a', 0.333, True)]
    """
    places = {name: place for place, name in enumerate(scores)}
    means = {name: float(column.double().mean()) for name, column in scores.items()}
    order = sorted(scores, key=lambda name: (-means[name], _or_last(losses.get(name)), places[name]))
    return [Standing(name, means[name], *gap_of(scores[order[0]], scores[name])) for name in order]


def gap_of(leader: Tensor, other: Tensor) -> tuple[float, float]:
    """Returns the mean of ``leader - other`` over the same images, and its paired standard error."""
    gaps = leader.double() - other.double()
    return float(gaps.mean()), standard_error(gaps)


def _or_last(loss: float | None) -> float:
    return math.inf if loss is None or math.isnan(loss) else loss


def promoted(ranked: Sequence[Standing]) -> list[str]:
    """Returns who stays in after a rung: the top third (two at least), and everything within one standard error of the leader."""
    third = max(FEWEST_KEPT, math.ceil(len(ranked) / 3))
    return [one.name for place, one in enumerate(ranked) if place < third or one.tied]


def finalists(ranked: Sequence[Standing]) -> list[str]:
    """Returns who is trained again with more seeds: the best two, and what is within one standard error, up to four in all."""
    inside = [one.name for place, one in enumerate(ranked) if place < FEWEST_KEPT or one.tied]
    return inside[:MOST_FINALISTS]


def winner(ranked: Sequence[Standing], trainable: Mapping[str, int], margin: float | None = None) -> str:
    """Returns the cheapest setting within one standard error of the leader: that with the fewest trainable numbers.

    With a ``margin`` it is the cheapest of those that are no more than this behind the leader. Of equally cheap ones the one that
    stands higher wins. (Seconds don't decide: they differ from run to run.)
    """
    near = [one.tied if margin is None else one.gap <= margin + ROUNDING for one in ranked]
    inside = [(trainable[one.name], place, one.name) for place, one in enumerate(ranked) if near[place]]
    return min(inside)[2]
