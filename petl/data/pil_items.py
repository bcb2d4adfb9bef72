"""Datasets of others whose items are PIL images: they go through the model's pipeline, as the files of a folder do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from petl.data.dict_keys import usual_keys
from petl.data.loaders import KeyedDataset, KeyedStream
from petl.data.pairs import Keys, is_batch, pick_keys
from petl.data.transforms import Transform
from petl.data.wrappers import DatasetWrapper, petl_datasets


class Transformed(DatasetWrapper):
    """A dataset of pairs (image tensor, target) around one with PIL images; ``keys`` may name the two parts of an item."""

    def __init__(self, dataset: Any, keys: Keys | None, transform: Transform):
        super().__init__(dataset)
        self.keys, self.transform = keys, transform

    def __getitem__(self, index: int) -> Any:
        image, target = pick_keys(self.dataset[index], self.keys)[:2]
        return self.transform(image), target


class TransformedStream(KeyedStream):
    """The same around an iterable of single items."""

    def __init__(self, source: Any, keys: Keys | None, transform: Transform):
        super().__init__(source, keys)
        self.transform = transform

    def __iter__(self) -> Iterator[Any]:
        for image, target in super().__iter__():
            yield self.transform(image), target


def pairs_of(data: Any, keys: Keys | None, transform: Transform | None) -> Any:
    """Returns a dataset or stream of pairs around one of single items, with the two parts that ``keys`` names, transformed."""
    if isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        if transform is not None:
            return TransformedStream(data, keys, transform)
        return KeyedStream(data, keys) if keys or not isinstance(data, IterableDataset) else data
    if transform is not None:
        return Transformed(data, keys, transform)
    return KeyedDataset(data, keys) if keys else data


def first_item(data: Any) -> Any:
    """Returns the first item of a dataset or stream, or of the stream in a DataLoader; None where there is none to look at."""
    if isinstance(data, DataLoader):
        data = data.dataset if isinstance(data.dataset, IterableDataset) else None
    if data is None or petl_datasets(data) or isinstance(data, (Iterator, Mapping)):
        return None
    try:
        by_number = hasattr(data, "__getitem__") and not isinstance(data, IterableDataset)
        return data[0] if by_number else next(iter(data), None)
    except Exception:  # whatever a dataset raises comes again where it is read in earnest
        return None


def usual_keys_of(item: Any) -> Keys | None:
    """Returns the keys of image and label in a single item that is a dict with usual names; None where it isn't."""
    keys = usual_keys(item) if isinstance(item, Mapping) else None
    return None if keys is None or is_batch(item, keys) else keys


def has_pil_image(item: Any, keys: Keys | None) -> bool:
    """Returns whether the image in an item is one of PIL's."""
    try:
        image = pick_keys(item, keys)[0]
    except Exception:  # no item of this kind: what reads it in earnest says so
        return False
    return type(image).__module__.startswith("PIL.")
