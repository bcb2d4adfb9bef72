"""The class numbers of a dataset, as far as possible without reading images: for class weights and early errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, TensorDataset

from petl.data.bad_files import LEFT_OUT
from petl.data.class_labels import dataset_targets
from petl.data.loaders import KeyedDataset, Loader, PairLoader
from petl.data.pairs import pick_keys, unknown_class_error
from petl.data.wrappers import DatasetWrapper
from petl.errors import DataError


def refuse_targets(loader: Loader, labels: list[str], *, training: bool = False) -> None:
    """Refuses class numbers that the model hasn't, and in training data of one class alone, which teaches nothing.

    Raises:
        DataError: for one of these. Numbers that can't be had without reading the images are checked batch by batch.
    """
    classes = len(labels)
    if training and classes == 1:
        raise DataError(
            f"there is one class alone ({labels[0]}), and any model that always gives that answer is right; training needs "
            "images of two classes or more"
        )
    numbers = known_targets(loader.dataset)
    numbers = None if numbers is None else np.unique(numbers[numbers != LEFT_OUT])
    if numbers is None or not len(numbers):
        return
    if not 0 <= numbers[0] <= numbers[-1] < classes:
        raise unknown_class_error(int(numbers[-1] if numbers[-1] >= classes else numbers[0]), classes)
    if training and len(numbers) == 1:
        raise DataError(
            f"all training images are of one class ({labels[numbers[0]]}), and any model that always gives that answer is right; "
            "training needs images of two classes or more"
        )


def known_targets(dataset: Any, *, reading: bool = False) -> np.ndarray | None:
    """Returns the class number of each image, or None where it can't be had (without ``reading`` images)."""
    inner = (
        dataset.dataset if isinstance(dataset, DatasetWrapper) and not isinstance(dataset, KeyedDataset) else dataset
    )
    numbers = dataset_targets(dataset, reading=reading) if not isinstance(inner, KeyedDataset) else None
    if numbers is None and type(inner) is TensorDataset and len(inner.tensors) == 2:
        numbers = inner.tensors[1].cpu().numpy()
    whole = isinstance(numbers, np.ndarray) and numbers.ndim == 1 and numbers.dtype.kind in "iu"
    return numbers if whole else None


def read_targets(loader: Loader) -> Tensor:
    """Returns the class numbers of all images that can be read; the dataset is read once if it doesn't tell them."""
    numbers = known_targets(loader.dataset, reading=True)
    if numbers is None:
        numbers = _targets_of_items(loader)
    return torch.from_numpy(numbers[numbers != LEFT_OUT]).long()


def _targets_of_items(loader: Loader) -> np.ndarray:
    """Returns the class numbers from the dataset's ``targets``, or from its items."""
    dataset: Any = loader.dataset.dataset if isinstance(loader.dataset, DatasetWrapper) else loader.dataset
    targets = None if isinstance(dataset, KeyedDataset) else getattr(dataset, "targets", None)
    if targets is not None and getattr(dataset, "target_transform", None) is None:
        return np.asarray(targets, dtype=np.int64)
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise DataError(
            f"class_weights='balanced' has to count the images of each class, which {type(dataset).__name__} doesn't tell; pass "
            "one number per class"
        )
    keys = loader.keys if isinstance(loader, PairLoader) else None
    return np.array([int(pick_keys(dataset[i], keys)[1]) for i in range(len(dataset))], dtype=np.int64)
