"""Batches in an order, and with augmentations, that depend only on the seed, the epoch and the image.

Every image is augmented with random numbers of its own, drawn from (seed, epoch): the number of worker processes, what
ran before, and where in the epoch a run is resumed change nothing. A resumed run sees what an unbroken one sees.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from petl.data.class_labels import dataset_classes
from petl.data.datasets import Images
from petl.data.label_faults import collated
from petl.data.random_state import seeded_rng
from petl.data.replacements import MarkedUnreadable, first_readable
from petl.data.sampling import Sampling, Shuffle, sampling_weights
from petl.data.wrappers import DatasetWrapper, petl_datasets, pipeline_of
from petl.errors import DataError


class Seeded(DatasetWrapper):
    """A dataset that is indexed by (index, seed) and draws all random numbers of the item from that seed.

    An image that can't be read is replaced by the next one of this dataset that can.
    """

    def __getitem__(self, key: tuple[int, int]) -> Any:
        index, seed = key
        with seeded_rng(seed):
            return first_readable(self.dataset, index)

    @property
    def classes(self) -> list[str] | None:
        return dataset_classes(self.dataset)


def loader(
    dataset: Dataset[Any],
    *,
    batch_size: int,
    training: bool = False,
    workers: int = 0,
    seed: int = 0,
    sampling: Sampling = None,
) -> DataLoader[Any]:
    """Returns a loader of batches (images [N, k, H, W], targets [N]) from any dataset of pairs.

    In training: shuffled and augmented by (seed, epoch) alone, see `set_epoch`; a last batch of a single image is left
    out (batch norm can't take it), no other image is. Otherwise in the dataset's order, everything. Streams (WebDataset
    and the like) are shuffled by timm's reader as they come: a stream can't be resumed bit by bit.

    ``sampling`` draws as many images with replacement: "balanced", so that all classes come equally often; "weights", by the
    dataset's own ``.weights``; or a number for each image.

    For a file that can't be read, see `Images`: batches keep their number and size. In training another image takes its
    place; otherwise it has class number -100 (`petl.data.bad_files.LEFT_OUT`), which metrics have to leave out.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> pairs = TensorDataset(torch.arange(4.0), torch.arange(4))
        >>> [targets.tolist() for _, targets in loader(pairs, batch_size=3)]
        [[0, 1, 2], [3]]
    """
    if batch_size < 1 or workers < 0:
        raise DataError(f"batch_size={batch_size}, workers={workers}; expected at least 1 and 0")
    if sampling is not None and (not training or isinstance(dataset, IterableDataset)):
        what = "a stream gives its images in an order of its own" if training else "evaluation reads every image once"
        raise DataError(f"sampling= with images that can't be drawn: {what}; leave it out")
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    options.update(batch_size=batch_size, collate_fn=collated, pin_memory=torch.cuda.is_available())
    for origin in petl_datasets(dataset) if workers else ():
        if isinstance(origin, Images):
            origin.share()
    if isinstance(dataset, IterableDataset):
        if hasattr(dataset, "set_loader_cfg"):
            dataset.set_loader_cfg(num_workers=workers)  # type: ignore[attr-defined]  # timm's streams: see the line above
        return DataLoader(dataset, **options)
    if not training:
        own = pipeline_of(dataset) is not None
        return DataLoader(MarkedUnreadable(dataset) if own else dataset, **options)
    count = len(dataset)  # type: ignore[arg-type]  # map-style datasets have it
    weights = sampling_weights(dataset, sampling)
    lonely = count > batch_size and count % batch_size == 1
    return DataLoader(Seeded(dataset), sampler=Shuffle(count, seed, weights), drop_last=lonely, **options)


def set_epoch(loader: DataLoader[Any], epoch: int) -> None:
    """Sets the epoch by which the next pass over ``loader`` (plain, or prepared by accelerate) is shuffled and augmented.

    To go on in the middle: ``set_epoch(loader, epoch)``, then ``accelerate.skip_first_batches(loader, done)``.
    """
    for part in (loader, loader.sampler, loader.dataset):
        if hasattr(part, "set_epoch"):
            return part.set_epoch(epoch)  # type: ignore[union-attr]  # asked in the line above
