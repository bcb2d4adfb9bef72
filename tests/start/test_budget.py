"""The minutes of `petl.start`: a step's share is of what is left, and odd numbers are refused."""

from __future__ import annotations

import time
from typing import Any

import pytest

from petl.errors import PetlError
from petl.start.budget import SHARES, Budget


def test_shares_are_of_what_is_left() -> None:
    assert sum(SHARES.values()) == pytest.approx(1)
    budget = Budget(100.0, began=time.perf_counter() - 20)
    assert budget.share("rank") == pytest.approx(80 * 0.15, abs=1)
    assert budget.share("fit") == pytest.approx(80 * 0.25 / 0.35, abs=1)
    assert Budget(1.0, began=time.perf_counter() - 5).share("report") == 0.0


@pytest.mark.parametrize("minutes", [0, -1, "10", None, True, float("inf"), float("nan"), 0.01])
def test_odd_minutes(minutes: Any) -> None:
    with pytest.raises(PetlError, match="minutes="):
        Budget.of_minutes(minutes)
