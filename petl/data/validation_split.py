"""Splits a training set into training and validation images."""

from __future__ import annotations

import numpy as np

from petl.data.datasets import Images
from petl.data.streams import Stream
from petl.errors import DataError


def holdout(dataset: Images | Stream, fraction: float = 0.2, *, seed: int = 0) -> tuple[Images, Images]:
    """Splits a training set that has no val folder: returns (train, val), with the same share of every class in val.

    ``train`` keeps its augmentation (or gets timm's), ``val`` has the evaluation transform. Classes with two or more
    images have at least one on either side; a single image stays in ``train``. The same seed gives the same split.

    Raises:
        DataError: the dataset is a stream, the fraction isn't between 0 and 1, or no class has two images.
    """
    if isinstance(dataset, Stream):
        raise DataError(
            "a stream can't be split: its images have no numbers; pass a source with a split for validation"
        )
    if not 0 < fraction < 1:
        raise DataError(f"fraction={fraction}; expected a share between 0 and 1, such as 0.2")
    rng, targets, held = np.random.default_rng(seed), dataset.targets, []
    for number in np.unique(targets):
        members = rng.permutation(np.flatnonzero(targets == number))
        held += members[: int(np.clip(round(fraction * len(members)), 1, len(members) - 1))].tolist()
    if not held:
        raise DataError(
            "every class has only one image, so none can be held out for validation; add images, or pass validation "
            "images of their own (petl train: --val FOLDER)"
        )
    rest = np.setdiff1d(np.arange(len(dataset)), held)
    return dataset.part(rest, training=True), dataset.part(np.sort(held).astype(int), training=False)
