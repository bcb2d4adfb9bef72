"""What is inside torch's own wrappers of datasets: `Subset` (so `random_split`), `ConcatDataset`, one in the other.

They hand out the same pairs but know neither class names nor the input pipeline; those are asked for here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import ChainDataset, ConcatDataset, Dataset, Subset

from petl.data.datasets import Images, Stream
from petl.errors import DataError


class DatasetWrapper(Dataset[Any]):
    """A dataset of petl's own around another one: the same pairs, in the same places."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)


def wrapped_datasets(dataset: Any) -> list[Any]:
    """The datasets that a wrapper of torch's or petl's holds; [] for everything else."""
    if isinstance(dataset, (DatasetWrapper, Subset)):
        return [dataset.dataset]
    return list(dataset.datasets) if isinstance(dataset, (ConcatDataset, ChainDataset)) else []


def innermost_datasets(dataset: Any) -> Iterator[Any]:
    """The datasets at the bottom, in the order of their images; each as often as it occurs."""
    inner = wrapped_datasets(dataset)
    if not inner:
        yield dataset
    for one in inner:
        yield from innermost_datasets(one)


def petl_datasets(dataset: Any) -> list[Images | Stream]:
    """petl's own datasets among them, each once."""
    found: list[Images | Stream] = []
    for leaf in innermost_datasets(dataset):
        if isinstance(leaf, (Images, Stream)) and not any(leaf is known for known in found):
            found.append(leaf)
    return found


def locate(dataset: Any, index: int) -> tuple[Any, int]:
    """The dataset at the bottom that holds item ``index``, and its number there."""
    if isinstance(dataset, DatasetWrapper):
        return locate(dataset.dataset, index)
    if isinstance(dataset, Subset):
        return locate(dataset.dataset, int(dataset.indices[index]))
    if isinstance(dataset, ConcatDataset):
        number = int(np.searchsorted(dataset.cumulative_sizes, index, side="right"))
        return locate(dataset.datasets[number], index - (dataset.cumulative_sizes[number - 1] if number else 0))
    return dataset, index


def pipeline_of(dataset: Any) -> dict[str, Any] | None:
    """The input pipeline of petl's own datasets in ``dataset``; None where there are none.

    An attribute of this name that another library's dataset has is something else, and is not asked.

    Raises:
        DataError: the parts of a ConcatDataset have different pipelines.
    """
    found = [origin.pipeline for origin in petl_datasets(dataset)]
    if any(one != found[0] for one in found):
        odd = next(key for one in found for key in one if one != found[0] and one[key] != found[0].get(key))
        raise DataError(
            f"parts of a {type(dataset).__name__} have different input pipelines ({odd}); make all of them with one: "
            f"petl.data.dataset(folder, petl.data.pipeline(model))"
        )
    return found[0] if found else None
