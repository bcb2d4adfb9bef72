"""Loaders of other libraries, as loaders of pairs: timm's with a prefetcher, webdataset's, DALI's, any iterable of batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from petl.data.pairs import Keys, pick_keys
from petl.data.wrappers import DatasetWrapper
from petl.errors import DataError

_NOTHING = object()


class PickedBatch(tuple[Any, ...]):
    """The two parts of a batch that ``keys`` names; ``whole`` is the batch with all its parts."""

    whole: Any

    @classmethod
    def of(cls, batch: Any, keys: Keys) -> PickedBatch:
        picked = cls(pick_keys(batch, keys))
        picked.whole = batch
        return picked


def all_parts(batch: Any) -> Any:
    """Returns a batch with all the parts that its loader gave."""
    return batch.whole if isinstance(batch, PickedBatch) else batch


class PairLoader:
    """A loader of pairs (images, labels) around an iterable of batches, which keeps its own order and batch size.

    Under several ranks, accelerate gives each rank its share of a DataLoader; any other iterable has to do that itself.
    """

    sampler = batch_sampler = batch_size = None  # only torch's own loaders have these

    def __init__(self, source: Any, keys: Keys | None = None, *, first: Any = _NOTHING, accelerator: Any = None):
        self.source, self.keys, self.first, self.accelerator = source, keys, first, accelerator

    @property
    def dataset(self) -> Any:
        """Returns the dataset behind the batches, or None where the loader doesn't say."""
        return getattr(self.source, "dataset", None)

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[Any]:
        if self.keys is None:
            return (self._moved(pick_keys(batch, None)) for batch in self.source)
        return (PickedBatch.of(self._moved(batch), self.keys) for batch in self.source)

    def sample(self) -> Any:
        """Returns the first batch."""
        if self.first is _NOTHING:
            self.first = first_batch(self.source)
        return pick_keys(self.first, self.keys)

    def set_epoch(self, epoch: int) -> Any:
        """Passes the number of the epoch to the loader, its sampler or its dataset, whichever takes it."""
        parts: tuple[Any, ...] = (self.source, getattr(self.source, "sampler", None), self.dataset)
        for part in parts:
            if hasattr(part, "set_epoch"):
                return part.set_epoch(epoch)

    def on_device(self, accelerator: Any) -> PairLoader:
        """Returns a loader of the same batches, on the accelerator's device."""
        shared = isinstance(self.source, DataLoader) and accelerator.num_processes > 1
        source = accelerator.prepare_data_loader(self.source) if shared else self.source
        return PairLoader(source, self.keys, accelerator=accelerator)

    def _moved(self, batch: Any) -> Any:
        from accelerate.utils import send_to_device

        return send_to_device(batch, self.accelerator.device) if self.accelerator else batch


Loader = DataLoader[Any] | PairLoader


class KeyedDataset(DatasetWrapper):
    """A dataset of pairs around one whose items are dicts or longer tuples, of which ``keys`` names the two parts."""

    def __init__(self, dataset: Any, keys: Keys):
        super().__init__(dataset)
        self.keys = keys

    def __getitem__(self, index: int) -> Any:
        return pick_keys(self.dataset[index], self.keys)


class KeyedStream(IterableDataset[Any]):
    """An IterableDataset of pairs around any iterable of single items, of which ``keys`` may name the two parts."""

    def __init__(self, source: Iterable[Any], keys: Keys | None = None):
        self.source, self.keys = source, keys

    def __iter__(self) -> Iterator[Any]:
        return (pick_keys(item, self.keys) for item in self.source)

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]  # a TypeError where it has no length, as ever

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.source, "set_epoch"):
            self.source.set_epoch(epoch)  # type: ignore[attr-defined]  # asked in the line above


def first_batch(loader: Iterable[Any]) -> Any:
    """Returns the first batch of a loader; a DataError if there is none."""
    batch = next(iter(loader), _NOTHING)
    if batch is _NOTHING:
        raise DataError(f"{type(loader).__name__} gives no batch; expected at least one of (images, labels)")
    return batch


def on_device(accelerator: Any, loader: Loader) -> Any:
    """Returns a loader whose batches are on the accelerator's device; each rank gets its own share."""
    return loader.on_device(accelerator) if isinstance(loader, PairLoader) else accelerator.prepare_data_loader(loader)
