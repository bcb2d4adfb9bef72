"""What a header may say of confidences."""

from __future__ import annotations

from typing import Any

import pytest

from petl.format.calibration_values import is_correction, is_temperature

GOOD: dict[str, Any] = {
    "source": [0.5, 0.5],
    "target": [0.9, 0.1],
    "scale": 1.0,
    "offset": [0.6, -1.6],
    "before": {"head": [0.0, 0.1]},
    "temperature": None,
}


def test_good_values() -> None:
    assert is_correction(GOOD) and is_correction({**GOOD, "temperature": 2.0}) and is_temperature(1)


@pytest.mark.parametrize(
    "change",
    [
        {"source": [0.5]},
        {"before": {}},
        {"before": {"head": [0.0]}},
        {"before": {"head": ["0", "1"]}},
        {"offset": [float("nan"), 0.0]},
        {"scale": 0},
        {"scale": True},
        {"temperature": -1},
        {"target": "ab"},
    ],
)
def test_bad_values(change: dict[str, Any]) -> None:
    assert not is_correction({**GOOD, **change})


def test_values_of_other_kinds() -> None:
    assert not any(is_correction(value) for value in (None, [], "a", 3, {}))
    assert not any(is_temperature(value) for value in (None, 0, -1, float("inf"), "1", True))
