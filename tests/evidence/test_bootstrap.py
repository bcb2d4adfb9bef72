"""The standard error by bootstrap, against the formula for a mean."""

from __future__ import annotations

import math

import pytest
import torch

from petl.evidence.bootstrap import bootstrap_errors
from petl.evidence.intervals import standard_error


def test_the_bootstrap_knows_the_error_of_a_mean() -> None:
    values = torch.randn(300, generator=torch.Generator().manual_seed(0)).double() * 3
    mean, constant = bootstrap_errors(
        lambda drawn: torch.stack([values[drawn].mean(), torch.tensor(2.0)]), 300, draws=2000
    )
    assert mean == pytest.approx(standard_error(values), rel=0.05) and constant == 0
    again = bootstrap_errors(lambda drawn: values[drawn].mean()[None], 300, draws=2000)
    assert again == [mean]


def test_draws_without_the_number_do_not_count() -> None:
    def ratio(drawn: torch.Tensor) -> torch.Tensor:
        return torch.tensor([math.nan if int(drawn[0]) else 1.0])

    assert bootstrap_errors(ratio, 2) == [0.0]
    assert math.isnan(bootstrap_errors(lambda drawn: torch.tensor([1.0]), 1)[0])
