"""Sums over the rows of a feature matrix that need not fit into memory twice: means, and the principal axes.

Rows come a part at a time, in float64. Few rows are decomposed as they are; of many, the D x D matrix of their products is, so
that 100 000 images cost memory for D x D numbers beside the features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

PART = 4096  # rows that are converted to float64 at once
MANY_ROWS = 20_000  # from here on always by products
ReadRows = Callable[[slice], Tensor]  # the rows of a part, float64 [n, D]


def parts(count: int) -> Iterator[slice]:
    """Yields the slices of ``PART`` rows that together are all ``count`` rows, in order."""
    return (slice(start, min(start + PART, count)) for start in range(0, count, PART))


def weighted_mean(x: Tensor, weights: Tensor) -> Tensor:
    """Returns the mean of the rows of ``x`` [N, D] with these weights [N], in float64."""
    return sum((weights[part] @ x[part].double() for part in parts(len(x))), torch.zeros(())) / weights.sum()


def principal_axes(rows: ReadRows, count: int, size: int) -> tuple[Tensor, Tensor]:
    """Returns the squared singular values [k] and the right singular vectors [k, D] of ``count`` rows of length ``size``.

    Of few rows they come from a singular value decomposition, of many (or several times as many as columns) from D x D products,
    whose smallest values are exact up to 1e-16 of the largest.
    """
    if count <= MANY_ROWS and not (count > 1000 and count > 2 * size):
        _, s, vh = torch.linalg.svd(rows(slice(0, count)), full_matrices=False)
        return s.square(), vh
    products = torch.zeros(size, size, dtype=torch.float64)
    for part in parts(count):
        block = rows(part)
        products.addmm_(block.T, block)
    values, vectors = torch.linalg.eigh(products)
    return values.flip(0).clamp_min(0), vectors.T.flip(0)
