"""What one pass over a loader reads: the user's dataset, the number of images, and the training images in order."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from petl.data.batches import Seeded
from petl.data.loaders import Loader, PairLoader
from petl.data.replacements import MarkedUnreadable
from petl.data.sampling import Shuffle
from petl.extraction.randomness import RandomnessGuard


def user_dataset(loader: Loader) -> Any:
    """Returns the dataset that the user passed, without petl's wrappers around it."""
    dataset = loader.dataset
    while isinstance(dataset, (Seeded, MarkedUnreadable, RandomnessGuard)):
        dataset = dataset.dataset
    return dataset


def image_count(loader: Loader) -> int | None:
    """Returns how many images a pass over the loader gives; None where only the pass itself can tell."""
    if isinstance(loader, PairLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    if loader.batch_sampler is None or loader.drop_last:
        return None
    return len(loader.sampler)  # type: ignore[arg-type]  # samplers of map-style datasets have it


def in_order(loader: Loader, epoch: int, fixed: bool) -> DataLoader[Any]:
    """Returns a loader of the training images in the dataset's order, augmented as in that epoch.

    With ``fixed``, an image that draws random numbers is an error.
    """
    shuffle: Shuffle = loader.sampler  # type: ignore[assignment]  # choose_features has made sure of it
    dataset: Seeded = loader.dataset  # type: ignore[assignment]  # what batches.loader puts a Shuffle on
    order = Shuffle(shuffle.count, shuffle.seed)
    order.set_epoch(epoch)
    keys: Any = sorted(order)  # a list of (index, seed) serves as a sampler
    images = Seeded(RandomnessGuard(dataset.dataset)) if fixed else dataset
    return DataLoader(images, loader.batch_size, sampler=keys, num_workers=loader.num_workers)  # type: ignore[union-attr]  # as above
