"""Standard errors by bootstrap, for numbers that are no mean over images (an F1, an area under a curve, a correlation)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

DRAWS = 200  # they know a standard error to 5 percent of itself
FEWEST_DRAWS, MOST_NUMBERS = 25, 4e7  # of large sets, whose errors are small, fewer draws do


def bootstrap_errors(
    statistics: Callable[[Tensor], Tensor], count: int, *, draws: int | None = None, seed: int = 0
) -> list[float]:
    """Returns the standard errors of M numbers that are computed from ``count`` images (Efron 1979).

    Args:
        statistics: takes the numbers of the images that were drawn [count], with replacement, and returns the M numbers; nan
            where one isn't defined for these images. Such draws don't count for that number.
        draws: how many times; by default 200, and fewer for more than 200 000 images.

    With one image, or where a number is defined in fewer than two draws, its error is nan.

    >>> values = torch.tensor([1.0, 0.0, 1.0, 1.0] * 25)
    >>> [round(error, 2) for error in bootstrap_errors(lambda drawn: values[drawn].mean()[None], 100)]
    [0.04]
    """
    draws = draws or int(min(DRAWS, max(FEWEST_DRAWS, MOST_NUMBERS // max(1, count))))
    generator = torch.Generator().manual_seed(seed)
    found = torch.stack(
        [statistics(torch.randint(count, (count,), generator=generator)).double() for _ in range(draws)]
    )
    return [_deviation(column[~column.isnan()]) if count > 1 else math.nan for column in found.T]


def _deviation(values: Tensor) -> float:
    return float(values.std()) if len(values) > 1 else math.nan
