"""The range test of ``lr="find"``: which factor of the default rates makes the loss fall fastest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from petl.training.loop import update_weights
from petl.training.rate_groups import PEAK
from petl.training.recovery import LossNotFinite
from petl.training.run import Run
from petl.training.undone_updates import undone, windows

UPDATES = 100
LOWEST, HIGHEST = 1e-7, 10.0  # rates of the group with the highest one
SMOOTHING = 0.98  # of the loss's exponential average
STOP_AT = 4.0  # times the lowest smoothed loss
SKIPPED_START, SKIPPED_END = 0.1, 5  # share of the first, number of the last updates that don't count
FEWEST = 10  # updates that a curve needs
LEAST_FALL = 0.02  # share of the first loss by which the loss has to fall


@dataclass(frozen=True)
class RateSearch:
    """The result of a range test (Smith 2015, arXiv:1506.01186): pass ``lr`` to `petl.fit`; prints as a sentence.

    Attributes:
        factor: of all default rates; 1.0 where the curve shows none.
        why: where it shows none: the reason.
        rates: of the group with the highest one, one for each update.
        losses: smoothed, for each update.
    """

    factor: float = 1.0
    why: str = ""
    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    @property
    def lr(self) -> str:
        """The factor as `petl.fit` takes it: "x0.5"."""
        return f"x{self.factor:g}"

    def __repr__(self) -> str:
        if self.why:
            return (
                f"the range test of {len(self.rates)} updates shows no rate ({self.why}): the default rates are taken"
            )
        return (
            f"the range test of {len(self.rates)} updates chose lr={self.lr!r}: the default rates times {self.factor:g}"
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the result as plain values."""
        return {**asdict(self), "lr": self.lr}


def search_rates(run: Run) -> RateSearch:
    """Raises all rates from 1e-7 to 10 in about 100 updates, in their proportion, and undoes the updates.

    As fastai's ``lr_find`` does: the rate grows exponentially, the test stops at four times the lowest smoothed loss, and the
    rate is one in the longest fall of the curve (its "valley" rule), rounded to two digits. Small sets are read several times.
    """
    peaks = [group[PEAK] for group in run.optimizer.param_groups]
    rates = [LOWEST * (HIGHEST / LOWEST) ** (k / (UPDATES - 1)) for k in range(UPDATES)]
    losses: list[float] = []
    average = lowest = 0.0
    with undone(run):
        for rate, (epoch, window, count) in zip(rates, windows(run), strict=False):
            for group, peak in zip(run.optimizer.param_groups, peaks, strict=True):
                group["lr"] = rate * peak / max(peaks)
            try:
                loss = update_weights(run, window, count, epoch)
            except LossNotFinite:
                break
            average = SMOOTHING * average + (1 - SMOOTHING) * loss
            losses.append(average / (1 - SMOOTHING ** (len(losses) + 1)))
            lowest = min(lowest, losses[-1]) if len(losses) > 1 else losses[-1]
            if losses[-1] > STOP_AT * lowest:
                break
    return chosen_rate(rates[: len(losses)], losses, top=max(peaks))


def chosen_rate(rates: list[float], losses: list[float], *, top: float) -> RateSearch:
    """Returns the result for a curve; ``top`` is the highest of the default rates."""
    start = int(len(losses) * SKIPPED_START)
    kept = losses[start : len(losses) - SKIPPED_END]
    if len(kept) < FEWEST:
        return RateSearch(1.0, f"the loss diverged within {len(losses)} updates", rates, losses)
    at = start + valley(kept)
    if not min(kept) < (1 - LEAST_FALL) * losses[0]:
        return RateSearch(1.0, "the loss doesn't fall at any rate", rates, losses)
    return RateSearch(float(f"{rates[at] / top:.2g}"), "", rates, losses)


def valley(losses: Sequence[float]) -> int:
    """Returns the place that fastai's "valley" rule chooses: half way through the middle third of the longest fall.

    >>> valley([3.0, 3.0, 2.9, 2.5, 2.0, 1.5, 1.4, 1.4, 5.0])
    3
    """
    lengths, end = [1] * len(losses), 0
    for i, j in itertools.combinations(range(len(losses)), 2):
        if losses[j] < losses[i]:
            lengths[j] = max(lengths[j], lengths[i] + 1)
    end = max(range(len(losses)), key=lengths.__getitem__)
    start, third = end - lengths[end], lengths[end] / 3
    return max(0, start + math.floor(third) + math.floor(third / 2))
