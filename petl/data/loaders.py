"""Loaders of every make, as pairs: timm's with a prefetcher, webdataset's, DALI's, or any other iterable of batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from petl.data.pairs import Keys, pick_keys
from petl.data.wrappers import DatasetWrapper
from petl.errors import DataError

_NOTHING = object()


class PairLoader:
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
        return (self._placed(pick_keys(batch, self.keys)) for batch in self.source)

    def sample(self) -> Any:
        """The first batch."""
        if self.first is _NOTHING:
            self.first = first_batch(self.source)
        return pick_keys(self.first, self.keys)

    def set_epoch(self, epoch: int) -> Any:
        """Pass the number of the epoch on to whatever wants to know it."""
        parts: tuple[Any, ...] = (self.source, getattr(self.source, "sampler", None), self.dataset)
        for part in parts:
            if hasattr(part, "set_epoch"):
                return part.set_epoch(epoch)

    def on(self, accelerator: Any) -> PairLoader:
        """The same batches on the accelerator's device."""
        shared = isinstance(self.source, DataLoader) and accelerator.num_processes > 1
        source = accelerator.prepare_data_loader(self.source) if shared else self.source
        return PairLoader(source, self.keys, accelerator=accelerator)

    def _placed(self, batch: Any) -> Any:
        from accelerate.utils import send_to_device

        return send_to_device(batch, self.accelerator.device) if self.accelerator else batch


Loader = DataLoader[Any] | PairLoader


class KeyedDataset(DatasetWrapper):
    """A dataset whose items are dicts or longer tuples, as pairs of the two parts that ``keys`` names."""

    def __init__(self, dataset: Any, keys: Keys):
        super().__init__(dataset)
        self.keys = keys

    def __getitem__(self, index: int) -> Any:
        return pick_keys(self.dataset[index], self.keys)


class KeyedStream(IterableDataset[Any]):
    """An iterable of single items as torch's kind of dataset, whose items are pairs of the two parts that ``keys`` names."""

    def __init__(self, source: Iterable[Any], keys: Keys | None = None):
        self.source, self.keys = source, keys

    def __iter__(self) -> Iterator[Any]:
        return (pick_keys(item, self.keys) for item in self.source)

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]  # a TypeError where it has none, as for any other

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.source, "set_epoch"):
            self.source.set_epoch(epoch)  # type: ignore[attr-defined]  # asked in the line above


def first_batch(loader: Iterable[Any]) -> Any:
    """The first batch of a loader; a DataError where there is none."""
    found = next(iter(loader), _NOTHING)
    if found is _NOTHING:
        raise DataError(f"{type(loader).__name__} gives no batch; expected at least one of (images, labels)")
    return found


def on_device(accelerator: Any, loader: Loader) -> Any:
    """A loader whose batches are on the accelerator's device, each rank's own share of them."""
    return loader.on(accelerator) if isinstance(loader, PairLoader) else accelerator.prepare_data_loader(loader)
