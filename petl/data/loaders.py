"""Loaders of every make, as pairs: timm's with a prefetcher, webdataset's, DALI's, or any other iterable of batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from petl.data.origins import Around
from petl.errors import DataError, listing

Keys = Sequence[str | int]
_NOTHING = object()


class Batches:
    """Pairs (images, labels) from an iterable of batches, which is taken as it is, on the device of an accelerator.

    Under several ranks a DataLoader is shared out by accelerate; anything else has to give each rank its own share.
    """

    sampler = batch_sampler = batch_size = None  # what is known of torch's own loaders alone

    def __init__(self, source: Any, keys: Keys | None = None, *, first: Any = _NOTHING, accelerator: Any = None):
        self.source, self.keys, self.first, self.accelerator = source, keys, first, accelerator

    @property
    def dataset(self) -> Any:
        """The dataset behind the batches, where the loader tells."""
        return getattr(self.source, "dataset", None)

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[Any]:
        return (self._placed(picked(batch, self.keys)) for batch in self.source)

    def sample(self) -> Any:
        """The first batch."""
        if self.first is _NOTHING:
            self.first = first_of(self.source)
        return picked(self.first, self.keys)

    def set_epoch(self, epoch: int) -> Any:
        """Pass the number of the epoch on to whatever wants to know it."""
        parts: tuple[Any, ...] = (self.source, getattr(self.source, "sampler", None), self.dataset)
        for part in parts:
            if hasattr(part, "set_epoch"):
                return part.set_epoch(epoch)

    def on(self, accelerator: Any) -> Batches:
        """The same batches on the accelerator's device."""
        shared = isinstance(self.source, DataLoader) and accelerator.num_processes > 1
        source = accelerator.prepare_data_loader(self.source) if shared else self.source
        return Batches(source, self.keys, accelerator=accelerator)

    def _placed(self, batch: Any) -> Any:
        from accelerate.utils import send_to_device

        return send_to_device(batch, self.accelerator.device) if self.accelerator else batch


Loader = DataLoader[Any] | Batches


class Picked(Around):
    """A dataset whose items are dicts or longer tuples, as pairs of the two parts that ``keys`` names."""

    def __init__(self, dataset: Any, keys: Keys):
        super().__init__(dataset)
        self.keys = keys

    def __getitem__(self, index: int) -> Any:
        return picked(self.dataset[index], self.keys)


class Streamed(IterableDataset[Any]):
    """An iterable of single items as torch's kind of dataset, whose items are pairs of the two parts that ``keys`` names."""

    def __init__(self, source: Iterable[Any], keys: Keys | None = None):
        self.source, self.keys = source, keys

    def __iter__(self) -> Iterator[Any]:
        return (picked(item, self.keys) for item in self.source)

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]  # a TypeError where it has none, as for any other

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.source, "set_epoch"):
            self.source.set_epoch(epoch)  # type: ignore[attr-defined]  # asked in the line above


def first_of(loader: Iterable[Any]) -> Any:
    """The first batch of a loader; a DataError where there is none."""
    found = next(iter(loader), _NOTHING)
    if found is _NOTHING:
        raise DataError(f"{type(loader).__name__} gives no batch; expected at least one of (images, labels)")
    return found


def on_device(accelerator: Any, loader: Loader) -> Any:
    """A loader whose batches are on the accelerator's device, each rank's own share of them."""
    return loader.on(accelerator) if isinstance(loader, Batches) else accelerator.prepare_data_loader(loader)


def picked(batch: Any, keys: Any) -> Any:
    """The two parts of a batch or an item that ``keys`` names, as a tuple; without keys the batch as it is.

    Raises:
        DataError: it has no such part.
    """
    if isinstance(batch, (list, tuple)) and len(batch) == 1 and isinstance(batch[0], Mapping):
        batch = batch[0]  # DALI: one dict for each GPU of the pipeline
    if keys is None:
        return batch
    try:
        return tuple(batch[key] for key in keys)
    except (KeyError, IndexError, TypeError):
        raise DataError(
            f"keys={tuple(keys)!r}, and there is {described(batch)}; name the images' part and the labels'"
        ) from None


def is_batch(item: Any, keys: Keys | None) -> bool:
    """Whether this is a whole batch (images [N, C, H, W], labels [N]) rather than one image and its label."""
    try:
        images, labels = (
            picked(item, keys)[:2] if keys is None and not isinstance(item, Mapping) else picked(item, keys)
        )
    except (DataError, TypeError, ValueError, KeyError, IndexError):
        return _looks_batched(item)
    shapes = [tuple(getattr(part, "shape", ())) for part in (images, labels)]
    count = len(labels) if isinstance(labels, (list, tuple)) else shapes[1][0] if shapes[1] else 0
    return len(shapes[0]) == 4 and count == shapes[0][0]


def _looks_batched(item: Any) -> bool:
    """The same of something without keys: whether it holds images of four dimensions."""
    item = picked(item, None)
    parts = item.values() if isinstance(item, Mapping) else item if isinstance(item, (list, tuple)) else ()
    return any(len(getattr(part, "shape", ())) == 4 for part in parts)


def as_tensor(part: Any) -> Tensor | None:
    """A tensor, or what numpy and plain numbers make one of; None for anything else."""
    if isinstance(part, Tensor):
        return part
    if isinstance(part, np.ndarray) and part.dtype.kind in "iufb":
        return torch.from_numpy(part)
    if isinstance(part, (list, tuple)) and part and all(isinstance(each, (int, np.integer)) for each in part):
        return torch.tensor([int(each) for each in part])
    return None


def described(batch: Any) -> str:
    """A batch in a few words: its type, and what it has."""
    if isinstance(batch, Mapping):
        return f"{type(batch).__name__} with {listing(map(repr, batch))}"
    parts = f" of {listing(type(part).__name__ for part in batch)}" if isinstance(batch, (tuple, list)) else ""
    return f"{type(batch).__name__}{parts}"
