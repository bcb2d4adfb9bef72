"""The lowest place of a valley, to what the steps leave of the interval."""

from __future__ import annotations

import pytest

from petl.evidence.golden_section import lowest


@pytest.mark.parametrize("at", [-3.0, -0.7, 0.0, 2.5, 3.0])
def test_it_finds_the_valley_also_at_an_end(at: float) -> None:
    seen: list[float] = []

    def value(x: float) -> float:
        seen.append(x)
        return abs(x - at)

    assert lowest(value, -3.0, 3.0, steps=40) == pytest.approx(at, abs=1e-7)
    assert len(seen) == 42 and all(-3.0 <= x <= 3.0 for x in seen)
