"""LogME is the log density of a normal distribution, for fewer images than features too."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from petl.measures.logme import evidences, logme


def drawn(count: int, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count + size)
    x = torch.randn(count, size, generator=generator, dtype=torch.float64)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


@pytest.mark.parametrize(("count", "size"), [(200, 20), (50, 200), (100, 1280), (40, 40)])
def test_the_evidence_is_the_density_of_the_normal_distribution(count: int, size: int) -> None:
    x, y = drawn(count, size)
    targets = torch.nn.functional.one_hot(y, 3).double()
    for number, found in enumerate(evidences(x, targets)):
        covariance = x @ x.T / found.alpha + torch.eye(count, dtype=torch.float64) / found.beta
        density = multivariate_normal.logpdf(targets[:, number].numpy(), None, covariance.numpy()) / count
        assert abs(found.value - density) < 1e-12


def test_the_term_of_unseen_directions_is_there() -> None:
    """Without it, noise of 100 images and 1280 features gets tens more than it is worth."""
    x = torch.randn(100, 1280, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (found,) = evidences(x, (torch.arange(100) % 2).double()[:, None])
    assert found.value < 0 and (1280 - 100) / 2 * math.log(found.alpha) / 100 > 10


def test_a_rotation_and_unused_classes_change_nothing() -> None:
    x, y = drawn(60, 30)
    rotation = torch.linalg.qr(torch.randn(30, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    assert logme(x @ rotation, y, 3) == pytest.approx(logme(x, y, 3), abs=1e-12)
    assert logme(x, y, 5) == logme(x, y, 3)


def test_features_that_tell_the_classes_have_more_than_others() -> None:
    x, y = drawn(100, 40)
    assert logme(x, y, 3) > logme(x, y.flip(0), 3)
    assert math.isfinite(logme(torch.zeros(8, 4), torch.arange(8) % 2, 2))
    assert math.isfinite(logme(torch.nn.functional.one_hot(y).float() * 1e4, y, 3))
