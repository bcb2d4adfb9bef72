"""The weighted tau is scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import weightedtau

from petl.measures.rank_agreement import weighted_tau


def test_it_is_scipys_also_with_ties() -> None:
    chance = np.random.default_rng(0)
    for number in range(60):
        first = chance.integers(0, 5, 7) if number % 2 else chance.normal(size=7)
        second = chance.integers(0, 4, 7)
        expected = float(weightedtau(first, second)[0])
        assert weighted_tau(first.tolist(), second.tolist()) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_ends() -> None:
    assert weighted_tau([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert weighted_tau([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert math.isnan(weighted_tau([1, 1], [1, 2]))
    with pytest.raises(ValueError, match="2 and 3 things"):
        weighted_tau([1, 2], [1, 2, 3])


# accuracies of ten fine-tuned networks on Aircraft and their LogME, as tllib publishes them (examples/model_selection)
TUNED = [82.7, 88.8, 86.6, 85.6, 85.3, 85.4, 84.5, 84.6, 82.8, 72.8]
LOGME = [0.934, 0.953, 0.946, 0.948, 0.950, 0.938, 0.943, 0.942, 0.941, 0.948]


def test_a_published_table_comes_from_another_variant() -> None:
    """tllib prints 0.595 here; scipy's weightedtau with its defaults gives less."""
    assert weighted_tau(LOGME, TUNED) == pytest.approx(float(weightedtau(LOGME, TUNED)[0]), abs=1e-12)
    assert weighted_tau(LOGME, TUNED) == pytest.approx(0.53, abs=0.005)
