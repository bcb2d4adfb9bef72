"""Datasets inside of wrappers: `Subset` (also of `random_split`), `ConcatDataset`, petl's own, in any nesting.

A wrapper returns the same pairs, but knows neither class names nor the input pipeline. These are looked up in what it wraps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import ChainDataset, ConcatDataset, Dataset, Subset

from petl.data.datasets import Images
from petl.data.streams import Stream
from petl.errors import DataError


class DatasetWrapper(Dataset[Any]):
    """A dataset around another one, with the same pairs in the same order; the base class of petl's own wrappers."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)


def wrapped_datasets(dataset: Any) -> list[Any]:
    """Returns the datasets that a wrapper of torch's or petl's holds; [] for any other dataset."""
    if isinstance(dataset, (DatasetWrapper, Subset)):
        return [dataset.dataset]
    return list(dataset.datasets) if isinstance(dataset, (ConcatDataset, ChainDataset)) else []


def innermost_datasets(dataset: Any) -> Iterator[Any]:
    """Yields the datasets inside of all wrappers, in the order of their images, each as often as it occurs."""
    inner = wrapped_datasets(dataset)
    if not inner:
        yield dataset
    for wrapped in inner:
        yield from innermost_datasets(wrapped)


def petl_datasets(dataset: Any) -> list[Images | Stream]:
    """Returns the `Images` and `Stream` inside of all wrappers, each once."""
    own: list[Images | Stream] = []
    for inner in innermost_datasets(dataset):
        if isinstance(inner, (Images, Stream)) and not any(inner is known for known in own):
            own.append(inner)
    return own


def locate(dataset: Any, index: int) -> tuple[Any, int]:
    """Returns the innermost dataset that holds item ``index``, and the item's number there."""
    if isinstance(dataset, DatasetWrapper):
        return locate(dataset.dataset, index)
    if isinstance(dataset, Subset):
        return locate(dataset.dataset, int(dataset.indices[index]))
    if isinstance(dataset, ConcatDataset):
        number = int(np.searchsorted(dataset.cumulative_sizes, index, side="right"))
        return locate(dataset.datasets[number], index - (dataset.cumulative_sizes[number - 1] if number else 0))
    return dataset, index


def pipeline_of(dataset: Any) -> dict[str, Any] | None:
    """Returns the input pipeline of the `Images` and `Stream` in ``dataset``; None where there are none.

    An attribute ``pipeline`` of another library's dataset means something else, and isn't read.

    Raises:
        DataError: the parts of a ConcatDataset have different pipelines.
    """
    pipelines = [own.pipeline for own in petl_datasets(dataset)]
    if any(other != pipelines[0] for other in pipelines):
        odd = next(key for other in pipelines for key in other if other[key] != pipelines[0].get(key))
        raise DataError(
            f"parts of a {type(dataset).__name__} have different input pipelines ({odd}); make all of them with one: "
            f"petl.data.dataset(folder, petl.data.pipeline(model))"
        )
    return pipelines[0] if pipelines else None
