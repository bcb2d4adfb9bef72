"""The limits of a server: how much it reads, how many requests it holds, and how long it waits for a fuller batch."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real

from petl.training.setting_checks import INFINITY, Bounds, refuse_numbers

COUNT = Bounds(Integral, 1, INFINITY, "a whole number above 0")
BOUNDS = {
    "max_body": COUNT,
    "max_batch": COUNT,
    "max_queue": COUNT,
    "max_pixels": COUNT,
    "max_wait_ms": Bounds(Real, 0, 60_000, "milliseconds, 0 to 60,000"),
    "poll_s": Bounds(Real, 0.01, 3600, "seconds, 0.01 to 3,600"),
    "body_s": Bounds(Real, 0.01, 3600, "seconds, 0.01 to 3,600"),
}


@dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """Limits; see `petl.serve`."""

    max_body: int = 20_000_000
    max_batch: int = 32
    max_wait_ms: float = 5.0
    max_queue: int = 128
    max_pixels: int = 50_000_000
    poll_s: float = 1.0
    body_s: float = 30.0

    def __post_init__(self) -> None:
        refuse_numbers(self, BOUNDS)
