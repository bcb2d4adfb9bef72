"""Batches of a user's loader, or of any other iterable of images, with a name for each image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from petl.data.bad_files import LEFT_OUT
from petl.errors import DataError
from petl.prediction.image_lists import ImageList
from petl.prediction.reading import Pipeline, ReadBatch, ReadImages, collate, image_in, item_name, ready


def is_sequential(loader: Any) -> bool:
    """Returns whether a loader gives the items of its dataset in their order, so that ranks can share it."""
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and isinstance(loader.sampler, SequentialSampler)
        and type(loader.batch_sampler) is BatchSampler
    )


def share_of_loader(loader: DataLoader[Any], rank: int, ranks: int) -> Iterable[ReadBatch]:
    """Returns a rank's batches of a sequential loader."""
    size, count = int(loader.batch_size or 1), len(loader.dataset)  # type: ignore[arg-type]  # a map-style dataset has a length
    count -= count % size if loader.drop_last else 0
    ranges = [range(start, min(start + size, count)) for start in range(rank * size, count, ranks * size)]
    batches = DataLoader(
        loader.dataset,
        batch_sampler=ranges,  # type: ignore[arg-type]  # a range does as a list of numbers
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
        generator=torch.Generator(),
    )
    named = ([item_name(loader.dataset, i) for i in indices] for indices in ranges)
    return (as_read(batch, names) for batch, names in zip(batches, named, strict=True))


def as_they_come(loader: Iterable[Any], pipeline: Callable[[], Pipeline]) -> Iterator[ReadBatch]:
    """Yields the batches of a loader, or single images of any other iterable, numbered in the order in which they come."""
    reader, number = ReadImages(ImageList([], []), pipeline), 0
    for item in loader:
        image = image_in(item)
        count = len(image) if getattr(image, "ndim", 0) == 4 else 1
        names = [f"image {number + i}" for i in range(count)]
        yield as_read(item, names) if isinstance(image, Tensor) and image.ndim == 4 else _single(reader, image, names)
        number += count


def _single(reader: ReadImages, image: Any, names: list[str]) -> ReadBatch:
    reader.images = ImageList(names, list(image) if len(names) > 1 else [image])
    return collate([reader[i] for i in range(len(names))])


def as_read(batch: Any, names: list[str]) -> ReadBatch:
    """Returns a batch of a user's loader; petl's datasets mark images that can't be read by their class number."""
    images = ready(torch.as_tensor(image_in(batch)))
    if images.ndim != 4:
        raise DataError(f"the loader gives images of shape {tuple(images.shape)}; expected [N, C, H, W]")
    targets = batch[1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None
    if not isinstance(targets, Tensor) or targets.shape != (len(images),) or not (targets == LEFT_OUT).any():
        return ReadBatch(names, images, [])
    read = (targets != LEFT_OUT).tolist()
    skipped = [
        (name, "it can't be read; the log has the reason") for name, good in zip(names, read, strict=True) if not good
    ]
    return ReadBatch([n for n, good in zip(names, read, strict=True) if good], images[targets != LEFT_OUT], skipped)
