"""Does a dataset give the same images in every epoch, and which are they?"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random.mtrand import get_bit_generator
from torch.utils.data import ConcatDataset, Subset, TensorDataset, default_collate

from petl.data.batches import Seeded
from petl.data.datasets import BAD, Images, raising
from petl.data.loaders import Picked
from petl.data.origins import Around
from petl.errors import StateError
from petl.wrapping.fingerprints import fingerprint

TRIED = 8  # images that are read twice to see whether a dataset is what it was said to be


def unsteady(dataset: Any) -> str:
    """Why a dataset may give other images in every epoch, as far as petl can tell; "" where it can't happen."""
    if type(dataset) in (Subset, ConcatDataset, Picked):  # a class of the user's own may do more
        parts = dataset.datasets if type(dataset) is ConcatDataset else [dataset.dataset]
        return next(filter(None, map(unsteady, parts)), "")
    if type(dataset) is Images:
        return "the training images are augmented at random" if dataset.training else ""
    if type(dataset) in (list, tuple, TensorDataset):
        return ""
    return f"petl can't see whether {type(dataset).__name__} changes its images at random"


def varies(dataset: Any) -> bool:
    """Whether some of the images are others when they are read with other random numbers."""
    seeded = Seeded(dataset)
    for index in np.linspace(0, len(dataset) - 1, min(TRIED, len(dataset))).astype(int).tolist():
        one, other = seeded[index, 1], seeded[index, 2]
        if not torch.equal(torch.as_tensor(one[0]), torch.as_tensor(other[0])) or int(one[1]) != int(other[1]):
            return True
    return False


class Watched(Around):
    """A dataset in which an image that draws a random number is an error.

    An augmentation draws from Python's, numpy's or torch's generator also when it then does nothing, so this is no guess from a
    few images; only a dataset with a generator of its own escapes it.
    """

    def __getitem__(self, index: int) -> Any:
        before = _chances()
        item = self.dataset[index]
        if _chances() != before:
            raise StateError(
                f"image {index} of {type(self.dataset).__name__} draws random numbers, so it may be another one in each epoch; "
                "turn its augmentation off, or pass cache=False"
            )
        return item


def _chances() -> tuple[Any, ...]:
    """The state of every generator that augmentations use."""
    return random.getstate(), str(get_bit_generator().state), torch.get_rng_state().numpy().tobytes()


def contents(dataset: Any) -> str:
    """A fingerprint of the images and labels of a dataset.

    Of files it takes paths, sizes and times of change, and the transform; of tensors their bits. Everything else is read
    through once.
    """
    if type(dataset) is Subset:
        return _hashed("subset", [int(index) for index in dataset.indices], contents(dataset.dataset))
    if type(dataset) is ConcatDataset:
        return _hashed("concat", [contents(part) for part in dataset.datasets])
    if type(dataset) is TensorDataset:
        return _hashed("tensors", [fingerprint(tensor) for tensor in dataset.tensors])
    files = _files(dataset) if type(dataset) is Images else None
    if files is not None:
        made = [dataset.pipeline, dataset.training, dataset.augment, dataset.classes]
        return _hashed("files", files, made, dataset.targets.tolist())
    return _hashed("items", [_item(dataset, index) for index in range(len(dataset))])


def _item(dataset: Any, index: int) -> Any:
    """Fingerprints of the parts of an item; of one that can't be read, that it can't."""
    try:
        with raising():
            item = dataset[index]
    except BAD as error:
        return str(error)
    return [fingerprint(torch.as_tensor(part)) for part in default_collate([item])]


def _files(dataset: Images) -> list[Sequence[Any]] | None:
    """(path, bytes, times of change) of every image, or None where they aren't files of their own."""
    paths = [Path(dataset.filename(i)) for i in range(len(dataset))]
    if not all(path.is_absolute() and path.is_file() for path in paths):
        return None
    states = [path.stat() for path in paths]
    return [
        (
            str(path),
            state.st_size,
            state.st_mtime_ns,
            state.st_ctime_ns,
        )  # the last one also tells of files that were swapped
        for path, state in zip(paths, states, strict=True)
    ]


def _hashed(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()
