"""Centred kernel alignment: how alike two sets of features of the same images are, without the bias of few images."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

LEAST_IMAGES = 4  # the unbiased estimate divides by n - 3


def unbiased_hsic(k: Tensor, m: Tensor) -> float:
    """Returns the unbiased estimate of the independence criterion of two Gram matrices [n, n] (Song et al. 2012, HSIC_1)."""
    n = len(k)
    k, m = (matrix - matrix.diagonal().diag() for matrix in (k, m))
    rows_k, rows_m = k.sum(0), m.sum(0)
    both = (k * m).sum() + rows_k.sum() * rows_m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (rows_k @ rows_m)
    return float(both) / (n * (n - 3))


def unbiased_cka(x: Tensor, y: Tensor, *, batch: int | None = None) -> float:
    """Returns linear CKA of features [N, D] and [N, E] of the same images: 1 for a rotation, about 0 for independent ones.

    The usual, biased estimate calls independent noise alike where images are few: .95 at 64 images of 1280 numbers. This one is
    unbiased (arXiv:2010.15327); it may be a little below 0. With ``batch``, its three parts are summed over so many images at a
    time, in their order (a rest of less than four is left out), and it needs no N x N numbers. Features that are the same for
    every image have no CKA: nan.

    Raises:
        ValueError: fewer than four images, or not one row for each.

    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [1.0, 1.0]])
    >>> round(unbiased_cka(x, 3 * x.flip(1)), 6)
    1.0
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < LEAST_IMAGES:
        raise ValueError(f"features {tuple(x.shape)} and {tuple(y.shape)}; expected [N, D] and [N, E], N of 4 or more")
    cross = own_x = own_y = 0.0
    x, y = _scaled(x), _scaled(y)
    for part in _parts(len(x), batch or len(x)):
        k, m = x[part] @ x[part].T, y[part] @ y[part].T
        cross, own_x, own_y = cross + unbiased_hsic(k, m), own_x + unbiased_hsic(k, k), own_y + unbiased_hsic(m, m)
    return cross / math.sqrt(own_x * own_y) if own_x > 1e-20 and own_y > 1e-20 else math.nan


def _scaled(x: Tensor) -> Tensor:
    """Returns the features centred, in float64, with mean squared length 1: sums of large numbers lose no digits."""
    x = x.double()
    x = x - x.mean(0)
    length = x.square().sum(1).mean().sqrt()
    return x / length if length > 1e-12 else torch.zeros_like(x)


def _parts(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, max(size, LEAST_IMAGES)):
        stop = min(start + max(size, LEAST_IMAGES), count)
        if stop - start >= LEAST_IMAGES:
            yield slice(start, stop)


def shuffled_cka(x: Tensor, y: Tensor, *, times: int = 10, seed: int = 0) -> float:
    """Returns the mean CKA after the images of ``y`` are shuffled: what is found where nothing is in common, about 0."""
    generator = torch.Generator().manual_seed(seed)
    found = [unbiased_cka(x, y[torch.randperm(len(y), generator=generator)]) for _ in range(times)]
    return sum(found) / times


def without_class_means(x: Tensor, y: Tensor) -> Tensor:
    """Returns features [N, D] less the mean of each image's class ``y`` [N]: what is left is what differs inside classes."""
    count = int(y.max()) + 1
    sums = torch.zeros(count, x.shape[1], dtype=torch.float64).index_add_(0, y, x.double())
    means = sums / torch.bincount(y, minlength=count).clamp_min(1)[:, None]
    return x.double() - means[y]
