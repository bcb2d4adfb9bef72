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
from petl.extraction.reasons import AugmentedAtRandom, Reason, UnknownDataset, UnknownTransform

REREAD_IMAGES = 8  # how many images are read twice, to see whether a dataset gives the same ones


def may_change(dataset: Any) -> Reason | None:
    """Returns why a dataset may give other images in every epoch, as far as petl can tell; None where that can't happen."""
    if type(dataset) in (Subset, ConcatDataset, KeyedDataset):  # exactly these: a subclass of the user's may do more
        parts = dataset.datasets if type(dataset) is ConcatDataset else [dataset.dataset]
        return next(filter(None, map(may_change, parts)), None)
    if type(dataset) is Images and dataset.transform.own is not None:
        return UnknownTransform(dataset.transform.own.name)
    if type(dataset) is Images:
        return AugmentedAtRandom() if dataset.training else None
    if type(dataset) in (list, tuple, TensorDataset):
        return None
    return UnknownDataset(type(dataset).__name__)


def differs_when_reread(dataset: Any) -> bool:
    """Returns whether some of the images differ when they are read again with other random numbers."""
    seeded = Seeded(dataset)
    for index in np.linspace(0, len(dataset) - 1, min(REREAD_IMAGES, len(dataset))).astype(int).tolist():
        one, other = seeded[index, 1], seeded[index, 2]
        if not torch.equal(torch.as_tensor(one[0]), torch.as_tensor(other[0])) or int(one[1]) != int(other[1]):
            return True
    return False


class RandomnessGuard(DatasetWrapper):
    """A dataset in which an image that draws a random number is an error.

    An augmentation draws from Python's, numpy's or torch's generator also when it then changes nothing, so this doesn't guess
    from a few images. Only a dataset with a generator of its own escapes it.
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
    """Returns the state of every generator that augmentations use."""
    return random.getstate(), str(get_bit_generator().state), torch.get_rng_state().numpy().tobytes()
