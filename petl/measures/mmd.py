"""Whether two sets of features differ: the maximum mean discrepancy (Gretton et al. 2012), its test by permutations, and more.

The kernel is Gaussian; its width is the median distance of the pooled images. Everything is one table of N x N kernel values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

PERMUTATIONS = 500


@dataclass(frozen=True)
class KernelTest:
    """A statistic, its p-value (never 0: the observed one counts among the draws), and what it is in deviations of the draws."""

    statistic: float
    p: float
    deviations: float
    draws: int


def kernel_table(x: Tensor) -> Tensor:
    """Returns the kernel values float32 [N, N] of features [N, D]: ``exp(-distance^2 / median distance^2)``; the
    diagonal is 0.

    >>> [round(float(value), 2) for value in kernel_table(torch.tensor([[0.0], [1.0], [2.0]]))[0]]
    [0.0, 0.37, 0.02]
    """
    x = x.double()
    squares = x.square().sum(1)
    distances = (squares[:, None] + squares - 2 * x @ x.T).clamp_min_(0)
    apart = distances[torch.triu(torch.ones(len(x), len(x), dtype=torch.bool), 1)]
    middle = float(apart.median()) or float(apart.mean()) or 1.0
    table = torch.exp(-distances / middle).float()
    return table.fill_diagonal_(0.0)


def mmd_test(x: Tensor, z: Tensor, *, draws: int = PERMUTATIONS, seed: int = 0) -> KernelTest:
    """Tests whether features [n, D] and [m, D] come from one distribution: unbiased squared MMD, p-value by permutations.

    >>> drawn = torch.randn(120, 3, generator=torch.Generator().manual_seed(1))
    >>> mmd_test(drawn[:60], drawn[60:]).p > 0.05, mmd_test(drawn[:60], drawn[60:] + 1).p < 0.01
    (True, True)
    """
    second = torch.cat([torch.zeros(len(x)), torch.ones(len(z))])
    return permuted_mmd(kernel_table(torch.cat([x, z])), second, draws=draws, seed=seed)


def permuted_mmd(
    table: Tensor, second: Tensor, *, strata: Tensor | None = None, draws: int = PERMUTATIONS, seed: int = 0
) -> KernelTest:
    """Returns the test on a kernel table [N, N]; ``second`` [N] is 1 for images of the second set.

    With ``strata`` [N] (class numbers), images change sets within their class only, and the statistic compares each class with
    its own: classes that are more frequent in one set are then no difference.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = _weights(second, strata)
    groups = [torch.arange(len(second))] if strata is None else [(strata == k).nonzero()[:, 0] for k in strata.unique()]
    rows = [weights]
    for _ in range(draws):
        row = weights.clone()
        for group in groups:
            row[group] = weights[group[torch.randperm(len(group), generator=generator)]]
        rows.append(row)
    return _tested(table, torch.stack(rows))


def _weights(second: Tensor, strata: Tensor | None) -> Tensor:
    """Returns weights [N] whose quadratic form with the kernel compares both sets: 1/m and -1/n; by class with strata."""
    second = second.double()
    if strata is None:
        return (second / second.sum() - (1 - second) / (1 - second).sum()).float()
    weights = torch.zeros(len(second), dtype=torch.float64)
    for k in strata.unique():
        here = strata == k
        m, n = float(second[here].sum()), float((1 - second[here]).sum())
        if m and n:
            weights[here] = (second[here] / m - (1 - second[here]) / n) * (m * n / (m + n))
    return weights.float()


def drawn_residuals(
    second: Tensor, expected: Tensor | Callable[[Tensor], Tensor], *, draws: int = PERMUTATIONS, seed: int = 0
) -> Tensor:
    """Returns what `residual_test` takes, float32 [1 + draws, N]: ``second - expected``, and the same of drawn memberships.

    Memberships are drawn from ``expected`` [N], each image's probability of being of the second set by what is to be left out of
    account. Where that was fitted to these images, ``expected`` is the function that fits it to memberships [S, N]: it is then
    fitted to each draw as well. Without that a test hardly ever rejects: what was fitted explains a part of what differs.
    """
    generator = torch.Generator().manual_seed(seed)
    fit = expected if callable(expected) else lambda rows: expected.expand(len(rows), -1)
    first = second[None].float()
    fitted = fit(first).float()
    drawn = (torch.rand(draws, len(second), generator=generator) < fitted).float()
    return torch.cat([first - fitted, drawn - fit(drawn).float()])


def residual_test(table: Tensor, residuals: Tensor) -> KernelTest:
    """Tests whether images are of the second set as often as expected, wherever they are, on a kernel table [N, N].

    ``residuals`` [1 + draws, N] are of `drawn_residuals`. The statistic is
    ``sum over i != j of (second - expected)_i k_ij (second - expected)_j``; with a constant ``expected`` it is the squared MMD.
    """
    return _tested(table, residuals)


def _tested(table: Tensor, rows: Tensor) -> KernelTest:
    """Returns the test for weights [1 + draws, N], the observed ones first."""
    values = ((rows @ table) * rows).sum(1).double()
    observed, drawn = values[0], values[1:]
    limit = observed - 1e-9 * values.abs().max()
    spread = float(drawn.std()) or 1.0
    p = (1 + int((drawn >= limit).sum())) / (1 + len(drawn))
    return KernelTest(float(observed), p, (float(observed) - float(drawn.mean())) / spread, len(drawn))
