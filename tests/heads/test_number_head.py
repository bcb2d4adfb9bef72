"""Ridge regression of numbers against scikit-learn: the layer, and what each image gets from the layer without it."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import Ridge

from petl.heads.number_head import number_head


@pytest.mark.parametrize(("count", "size"), [(30, 5), (12, 40)])
def test_as_scikit_learn_fits_it(count: int, size: int) -> None:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(count, size, generator=chance) * 3 + 2
    targets = torch.stack(
        [20 + 5 * x[:, 0] + torch.randn(count, generator=chance), torch.randn(count, generator=chance)], 1
    )
    targets[3, 1] = torch.nan
    head = number_head(x, targets)
    for column in range(2):
        rows = ~targets[:, column].isnan()
        some, y = x[rows].double(), targets[rows, column].double()
        spread = (some - some.mean(0)).square().mean().sqrt()

        def fitted(a: torch.Tensor, b: torch.Tensor, penalty: float, scale: torch.Tensor = spread) -> Ridge:
            return Ridge(alpha=penalty * float(scale) ** 2, solver="svd").fit(a.numpy(), b.numpy())

        def left_out(penalty: float, some: torch.Tensor = some, y: torch.Tensor = y) -> torch.Tensor:
            keep = torch.ones(len(y), dtype=torch.bool)
            found = []
            for i in range(len(y)):
                keep[i] = False
                found.append(float(fitted(some[keep], y[keep], penalty).predict(some[i : i + 1].numpy())[0]))
                keep[i] = True
            return torch.tensor(found, dtype=torch.float64)

        penalty = head.penalties[column]
        torch.testing.assert_close(head.left_out[rows, column], left_out(penalty), rtol=1e-6, atol=1e-6)
        whole = fitted(some, y, penalty)
        torch.testing.assert_close(head.weight[column], torch.from_numpy(whole.coef_), rtol=1e-6, atol=1e-6)
        assert float(head.bias[column]) == pytest.approx(float(whole.intercept_), rel=1e-6, abs=1e-6)
        for other in (penalty * 10, penalty / 10):
            assert (left_out(penalty) - y).square().sum() <= (left_out(other) - y).square().sum() * (1 + 1e-9)
    assert bool(head.left_out[3, 1].isnan()) and bool(torch.isfinite(head.mean_absolute_errors(targets)).all())


@pytest.mark.parametrize("bad", ["nan", "one", "shape"])
def test_what_can_not_be_fitted(bad: str) -> None:
    x, y = torch.randn(6, 3), torch.randn(6, 1)
    if bad == "nan":
        x[0, 0] = torch.nan
    y = y[:5] if bad == "shape" else y
    if bad == "one":
        y[1:] = torch.nan
    with pytest.raises(ValueError, match="not finite|two or more|expected"):
        number_head(x, y)


def test_targets_that_features_say_nothing_of_stay_their_mean() -> None:
    y = torch.tensor([[1.0], [2.0], [3.0], [6.0]])
    head = number_head(torch.ones(4, 2), y)
    assert float(head.bias + head.weight.sum()) == pytest.approx(3.0)
