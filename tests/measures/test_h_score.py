"""The H-score against its definition with scikit-learn's Ledoit-Wolf covariance, and its known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf

from petl.measures.h_score import h_score, ledoit_wolf


@pytest.mark.parametrize(("count", "size"), [(200, 20), (50, 120)])
def test_it_is_the_trace_of_the_definition(count: int, size: int) -> None:
    x = torch.randn(count, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.arange(count) % 4
    x[:, 0] += y
    shrunk = LedoitWolf().fit(x.numpy())
    assert ledoit_wolf(x - x.mean(0)) == pytest.approx(shrunk.shrinkage_, rel=1e-9)
    means = torch.stack([x[y == number].mean(0) for number in range(4)])[y].numpy()
    between = (1 - shrunk.shrinkage_) * np.cov(means, rowvar=False, bias=True)
    assert h_score(x, y, 4) == pytest.approx(np.trace(np.linalg.solve(shrunk.covariance_, between)), rel=1e-9)


def test_one_hot_features_reach_one_less_than_the_classes() -> None:
    y = torch.arange(5000) % 5
    x = torch.nn.functional.one_hot(y).double()
    assert h_score(x, y, 5, shrinkage=0.0) == pytest.approx(4, abs=1e-9)
    assert h_score(x, y, 5) == pytest.approx(4, abs=0.02)


def test_a_rotation_changes_nothing_and_constant_features_say_nothing() -> None:
    x = torch.randn(40, 60, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = torch.arange(40) % 2
    rotation = torch.linalg.qr(torch.randn(60, 60, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    assert h_score(x @ rotation, y, 2) == pytest.approx(h_score(x, y, 2), rel=1e-9)
    assert h_score(torch.ones(8, 3), torch.arange(8) % 2, 2) == 0
