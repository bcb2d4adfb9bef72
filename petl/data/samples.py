"""A sample of a dataset that has something of every class, for what need not see every image."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Subset

from petl.data.grouping import every_target
from petl.data.validation_split import generator, refuse_stream, strata_of
from petl.errors import DataError

FIRST_OF_EACH = 5  # images of a class that come before the shares decide, so that a rare class isn't lost


def sample(dataset: Any, images: int, *, seed: int = 0) -> Any:
    """Returns at most ``images`` images of a dataset, in their order, with the classes in the shares that they have there.

    The first five images of each class come before the shares decide. The same seed gives the same sample, and a smaller sample
    is a part of a larger one. A dataset with no more images comes back as it is.

    Args:
        dataset: What `petl.data.dataset` gives, or any Dataset with targets; a `Subset` comes back.
        images: How many, at least 1.

    Raises:
        DataError: the dataset is a stream, or ``images`` is no such number.

    >>> import torch
    >>> pairs = torch.utils.data.TensorDataset(torch.zeros(100, 1), torch.arange(100) % 2)
    >>> part = sample(pairs, 10)
    >>> len(part), sum(int(label) for _, label in part)
    (10, 5)
    """
    refuse_sample(images, seed)
    refuse_stream(dataset)
    if len(dataset) <= images:
        return dataset
    return Subset(dataset, sampled_rows(strata_of(dataset, every_target(dataset)), images, seed).tolist())


def refuse_sample(images: Any, seed: Any) -> None:
    """Raises a DataError for a number of images, or a seed, that can't be."""
    if isinstance(images, bool) or not isinstance(images, (int, np.integer)) or images < 1:
        raise DataError(f"images={images!r}; expected a whole number of at least 1")
    generator(seed)


def sampled_rows(strata: np.ndarray, images: int, seed: int) -> np.ndarray:
    """Returns the numbers of the sampled images, ascending, of images that are in ``strata`` [N] (any whole numbers).

    >>> sampled_rows(np.array([0] * 90 + [1] * 10), 20, seed=0).size
    20
    """
    rng, place = generator(seed), np.empty(len(strata))
    for stratum in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == stratum))
        turns = np.arange(len(members))
        place[members] = np.where(turns < FIRST_OF_EACH, turns - FIRST_OF_EACH, (turns + 0.5) / len(members))
    order = np.lexsort((rng.permutation(len(strata)), place))
    return np.sort(order[:images])
