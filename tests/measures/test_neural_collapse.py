"""Neural collapse of known features."""

from __future__ import annotations

import pytest
import torch

from petl.measures.neural_collapse import neural_collapse


def simplex(classes: int) -> torch.Tensor:
    return torch.eye(classes, dtype=torch.float64) - 1 / classes


def test_a_simplex_has_collapsed() -> None:
    y = torch.arange(30) % 5
    turned = simplex(5)[y] @ torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0] + 3
    found = neural_collapse(turned, y, answers=y)
    assert (found.nc1, found.cdnv, found.norms, found.angles) == pytest.approx((0, 0, 0, 0), abs=1e-12)
    assert found.disagreement == 0 and found.classes == 5


def test_nc1_is_the_trace_that_is_written() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    x = torch.randn(60, 7, generator=generator, dtype=torch.float64) + 4 * torch.eye(7, dtype=torch.float64)[y]
    means = torch.stack([x[y == k].mean(0) for k in range(3)])
    inside, between = x - means[y], means - means.mean(0)
    within, across = inside.T @ inside / 60, between.T @ between / 3
    written = float(torch.trace(within @ torch.linalg.pinv(across, rtol=1e-9))) / 3
    found = neural_collapse(x, y)
    assert found.nc1 == pytest.approx(written, rel=1e-6)
    pair = [(inside[y == a].square().sum(1).mean() + inside[y == b].square().sum(1).mean())
            / (2 * (means[a] - means[b]).square().sum()) for a, b in ((0, 1), (0, 2), (1, 2))]  # fmt: skip
    assert found.cdnv == pytest.approx(float(sum(pair) / 3), rel=1e-9)


def test_spread_scale_and_names_of_classes() -> None:
    y = torch.tensor([2, 9] * 20)
    x = torch.randn(40, 5)
    assert neural_collapse(x, y).nc1 == pytest.approx(neural_collapse(100 * x - 5, y).nc1, rel=1e-4)
    assert neural_collapse(x, y, answers=torch.full((40,), 2)).disagreement is not None
    with pytest.raises(ValueError, match="two classes"):
        neural_collapse(x, torch.zeros(40, dtype=torch.long))
