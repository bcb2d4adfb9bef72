"""The test for two samples finds what differs, and as often as its level where nothing does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from petl.measures.mmd import drawn_residuals, kernel_table, mmd_test, permuted_mmd, residual_test


def normal(count: int, size: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def test_the_statistic_is_the_unbiased_mmd() -> None:
    x, z = normal(20), normal(30, seed=1) + 0.5
    kernel = kernel_table(torch.cat([x, z])).double()
    a, b, c = kernel[:20, :20], kernel[20:, 20:], kernel[:20, 20:]
    plain = a.sum() / 400 + b.sum() / 900 - 2 * c.mean()  # the table has no diagonal
    assert mmd_test(x, z, draws=5).statistic == pytest.approx(float(plain), abs=1e-6)


def test_size_and_power_on_normal_numbers() -> None:
    p = [mmd_test(*normal(80, seed=seed).split(40), draws=60, seed=seed).p for seed in range(100)]
    assert sum(one <= 0.05 for one in p) <= 10  # 5 are expected; 11 or more have a probability of .011
    found = [
        mmd_test(normal(40, seed=seed), normal(40, seed=99 + seed) + 0.6, draws=60, seed=seed).p for seed in range(10)
    ]
    assert max(found) <= 0.05


def test_p_is_never_zero_and_equal_calls_are_equal() -> None:
    x, z = normal(30), normal(30, seed=1) + 9
    assert mmd_test(x, z, draws=40).p == 1 / 41
    assert mmd_test(x, z, seed=3) == mmd_test(x, z, seed=3)


def test_strata_take_class_frequencies_out_of_account() -> None:
    y = torch.cat([torch.arange(60) % 2, (torch.arange(60) % 10 == 0).long()])
    x = normal(120, seed=5) + 4 * y[:, None]
    second = (torch.arange(120) >= 60).float()
    table = kernel_table(x)
    assert permuted_mmd(table, second, draws=99).p == 0.01
    assert permuted_mmd(table, second, strata=y, draws=99).p > 0.05
    moved = kernel_table(x + second[:, None])
    assert permuted_mmd(moved, second, strata=y, draws=99).p == 0.01


def test_expected_shares_take_what_they_explain_out_of_account() -> None:
    generator = torch.Generator().manual_seed(0)
    x = normal(300)
    expected = (2 * x[:, 0]).sigmoid()
    second = (torch.rand(300, generator=generator) < expected).float()
    table = kernel_table(x)
    assert permuted_mmd(table, second, draws=99).p == 0.01
    residuals = drawn_residuals(second, expected, draws=99)
    assert residual_test(table, residuals).p > 0.05
    assert residual_test(kernel_table(x + 2 * second[:, None]), residuals).p < 0.05


def test_what_is_fitted_to_the_images_is_fitted_to_the_draws_as_well() -> None:
    def fit(memberships: Tensor) -> Tensor:
        """Linear regression on the features: all that is linear in them is explained, whoever is where."""
        rows = torch.cat([x, torch.ones(len(x), 1)], 1)
        return (memberships @ torch.linalg.pinv(rows).T @ rows.T).clamp(0.01, 0.99)

    p: dict[str, list[float]] = {"fitted once": [], "fitted to draws": []}
    for seed in range(20):
        x = normal(120, seed=seed)
        second = (torch.arange(120) >= 60).float()
        table = kernel_table(x)
        p["fitted once"].append(residual_test(table, drawn_residuals(second, fit(second[None])[0], draws=60)).p)
        p["fitted to draws"].append(residual_test(table, drawn_residuals(second, fit, draws=60)).p)
    assert min(p["fitted once"]) > 0.8  # it would never reject
    assert min(p["fitted to draws"]) < 0.3 < sum(p["fitted to draws"]) / 20 < 0.75
