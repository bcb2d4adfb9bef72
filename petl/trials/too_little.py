"""The error of a comparison that has too little time, with a number of seconds that is enough."""

from __future__ import annotations

import math

from petl.errors import PetlError

UNMEASURED_SHARE = 0.1  # share of the time for what isn't measured: writing, starting workers, telling the result
SLACK = 1.5  # of the number that is named: timings are noisy


class TooLittleTime(PetlError):
    """The seconds aren't enough for one epoch of each setting."""


def too_little(seconds: float, settings: int, least: float, jobs: float, used: float, guess: str = "") -> TooLittleTime:
    """Returns the error, which names a number of seconds that is enough for a plan of ``least`` seconds of runs.

    ``used`` are the seconds until runs begin; ``guess`` says what the numbers are guessed from, where runs weren't timed.
    """
    enough = math.ceil((least / jobs + used) / (1 - UNMEASURED_SHARE) * SLACK)
    after = f", after {_rounded(used)} s of measuring that" if not guess else f", by {guess}"
    return TooLittleTime(
        f"seconds={seconds:g} isn't enough for the shortest comparison of {settings} settings: about {_rounded(least / jobs)} s"
        f"{after}; pass seconds={enough} or more, fewer images by images=, or fewer methods"
    )


def _rounded(seconds: float) -> str:
    """Returns seconds in words.

    >>> _rounded(0.12345), _rounded(3711.2)
    ('0.123', '3711')
    """
    return f"{seconds:.0f}" if seconds >= 1000 else f"{seconds:.3g}"
