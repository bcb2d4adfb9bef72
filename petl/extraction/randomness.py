"""Whether a dataset may give other images in every epoch."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from numpy.random.mtrand import get_bit_generator
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from petl.data.batches import Seeded
from petl.data.datasets import Images
from petl.data.loaders import KeyedDataset
from petl.data.wrappers import DatasetWrapper
from petl.errors import StateError

REREAD_IMAGES = 8  # images that are read twice to see whether a dataset is what it was said to be


def may_change(dataset: Any) -> str:
    """Why a dataset may give other images in every epoch, as far as petl can tell; "" where it can't happen."""
    if type(dataset) in (Subset, ConcatDataset, KeyedDataset):  # a class of the user's own may do more
        parts = dataset.datasets if type(dataset) is ConcatDataset else [dataset.dataset]
        return next(filter(None, map(may_change, parts)), "")
    if type(dataset) is Images:
        return "the training images are augmented at random" if dataset.training else ""
    if type(dataset) in (list, tuple, TensorDataset):
        return ""
    return f"petl can't see whether {type(dataset).__name__} changes its images at random"


def differs_when_reread(dataset: Any) -> bool:
    """Whether some of the images are others when they are read with other random numbers."""
    seeded = Seeded(dataset)
    for index in np.linspace(0, len(dataset) - 1, min(REREAD_IMAGES, len(dataset))).astype(int).tolist():
        one, other = seeded[index, 1], seeded[index, 2]
        if not torch.equal(torch.as_tensor(one[0]), torch.as_tensor(other[0])) or int(one[1]) != int(other[1]):
            return True
    return False


class RandomnessGuard(DatasetWrapper):
    """A dataset in which an image that draws a random number is an error.

    An augmentation draws from Python's, numpy's or torch's generator also when it then does nothing, so this is no guess from a
    few images; only a dataset with a generator of its own escapes it.
    """

    def __getitem__(self, index: int) -> Any:
        before = rng_states()
        item = self.dataset[index]
        if rng_states() != before:
            raise StateError(
                f"image {index} of {type(self.dataset).__name__} draws random numbers, so it may be another one in each epoch; "
                "turn its augmentation off, or pass cache=False"
            )
        return item


def rng_states() -> tuple[Any, ...]:
    """The state of every generator that augmentations use."""
    return random.getstate(), str(get_bit_generator().state), torch.get_rng_state().numpy().tobytes()
