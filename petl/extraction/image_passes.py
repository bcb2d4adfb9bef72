"""What a pass over a loader reads: the user's dataset, the number of images, and the training images in order."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from petl.data.batches import Seeded, Shuffle
from petl.data.loaders import Loader, PairLoader
from petl.data.replacements import MarkedUnreadable
from petl.extraction.randomness import RandomnessGuard


def user_dataset(loader: Loader) -> Any:
    """The user's dataset."""
    dataset = loader.dataset
    while isinstance(dataset, (Seeded, MarkedUnreadable, RandomnessGuard)):
        dataset = dataset.dataset
    return dataset


def image_count(loader: Loader) -> int | None:
    """How many images a pass over the loader gives, where that is known before."""
    if isinstance(loader, PairLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    if loader.batch_sampler is None or loader.drop_last:
        return None
    return len(loader.sampler)  # type: ignore[arg-type]  # samplers of map-style datasets have it


def in_order(loader: Loader, epoch: int, steady: bool) -> DataLoader[Any]:
    """The training images in the dataset's order, each augmented as in that epoch, or with an error if ``steady``."""
    shuffle: Shuffle = loader.sampler  # type: ignore[assignment]  # road looked
    dataset: Seeded = loader.dataset  # type: ignore[assignment]  # what batches.loader puts a Shuffle on
    order = Shuffle(shuffle.count, shuffle.seed)
    order.set_epoch(epoch)
    keys: Any = sorted(order)
    watched = Seeded(RandomnessGuard(dataset.dataset)) if steady else dataset
    return DataLoader(watched, loader.batch_size, sampler=keys, num_workers=loader.num_workers)  # type: ignore[union-attr]  # road looked
