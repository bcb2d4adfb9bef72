"""The targets of a dataset, as far as possible without reading images: for class weights, statistics and early errors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset, default_collate

from petl.data.bad_files import LEFT_OUT
from petl.data.class_labels import dataset_targets
from petl.data.datasets import Images
from petl.data.loaders import KeyedDataset, Loader, PairLoader
from petl.data.pairs import images_and_targets, pick_keys, unknown_class_error
from petl.data.replacements import MarkedUnreadable
from petl.data.source_labels import lists_labels
from petl.data.wrappers import DatasetWrapper, innermost_datasets
from petl.errors import DataError

log = logging.getLogger(__name__)


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
    numbers = _of_tensors(inner) if numbers is None else numbers
    whole = isinstance(numbers, np.ndarray) and numbers.ndim == 1 and numbers.dtype.kind in "iu"
    return numbers if whole else None


def _of_tensors(dataset: Any) -> np.ndarray | None:
    """Returns the second tensor of a TensorDataset of two."""
    both = type(dataset) is TensorDataset and len(dataset.tensors) == 2
    return dataset.tensors[1].detach().cpu().numpy() if both else None


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
    if isinstance(dataset, IterableDataset) or not _has_items(dataset):
        raise DataError(
            f"class_weights='balanced' has to count the images of each class, which {type(dataset).__name__} doesn't tell; pass "
            "one number per class"
        )
    keys = loader.keys if isinstance(loader, PairLoader) else None
    return np.array([int(pick_keys(dataset[i], keys)[1]) for i in range(len(dataset))], dtype=np.int64)


def _has_items(dataset: Any) -> bool:
    return hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")


def all_targets(loader: Loader, model: nn.Module) -> Tensor:
    """Returns the targets of all images of a loader, [N] or [N, K], on the CPU, as `images_and_targets` has them in a batch.

    The images are read once where the targets aren't listed.

    Raises:
        DataError: items are no pairs, or their targets have different shapes.
    """
    dataset: Any = loader.dataset
    while isinstance(dataset, DatasetWrapper) and not isinstance(dataset, KeyedDataset):
        dataset = dataset.dataset
    listed = _listed(dataset) if not isinstance(loader, PairLoader) else None
    if listed is None:
        name = type(dataset if dataset is not None else loader).__name__
        log.info("reading all images of %s once, for their targets", name)
        batches = (images_and_targets(batch, model)[1].cpu() for batch in _in_order(loader))
        return _joined(list(batches))
    return images_and_targets((torch.zeros(len(listed), 1, 1, 1), listed), model)[1]


def _listed(dataset: Any) -> Tensor | None:
    """Returns the targets that a dataset lists, or that cost nothing to look up; None where images have to be read."""
    if isinstance(dataset, (list, tuple)) and all(
        isinstance(item, (list, tuple)) and len(item) == 2 for item in dataset
    ):
        return default_collate([item[1] for item in dataset]) if dataset else None
    if isinstance(dataset, Subset):
        inner = _listed(dataset.dataset)
        return None if inner is None else inner[torch.as_tensor(np.asarray(dataset.indices))]
    if isinstance(dataset, ConcatDataset):
        parts = [_listed(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return torch.cat(known) if len(known) == len(parts) else None
    found = _of_tensors(dataset)
    if found is None and isinstance(dataset, Images) and lists_labels(dataset.source):
        found = np.asarray(dataset.targets)
    return None if found is None else torch.from_numpy(found)


def _in_order(loader: Loader) -> Any:
    """Returns batches of all images: of torch's loaders in the dataset's order, of others as they come."""
    if isinstance(loader, PairLoader) or isinstance(loader.dataset, IterableDataset) or loader.collate_fn is None:
        return loader
    dataset: Any = loader.dataset
    plain = (
        dataset.dataset if isinstance(dataset, DatasetWrapper) and not isinstance(dataset, KeyedDataset) else dataset
    )
    items = MarkedUnreadable(plain)
    return DataLoader(items, loader.batch_size or 64, num_workers=loader.num_workers, collate_fn=loader.collate_fn)


def _joined(parts: list[Tensor]) -> Tensor:
    try:
        return torch.cat(parts)
    except RuntimeError:
        shapes = sorted({tuple(part.shape[1:]) for part in parts})
        raise DataError(
            f"targets have {shapes[0]} numbers in one batch and {shapes[-1]} in another; expected as many for each image"
        ) from None


def are_of_folders(targets: Tensor, dataset: Any) -> bool:
    """Returns whether targets are the class numbers that petl gave to the folders of images."""
    return not targets.is_floating_point() and all(isinstance(data, Images) for data in innermost_datasets(dataset))


def unknown_note(targets: Tensor) -> list[str]:
    """Returns a sentence for the history where some targets [N, K] aren't known."""
    count = int(targets.isnan().sum())
    return [f"{count} of {targets.numel()} training targets aren't known (NaN) and count nowhere"] if count else []


def refuse_infinite(targets: Tensor, labels: Sequence[str]) -> None:
    """Raises a DataError for targets [N, K] that are infinite; NaN means that a number isn't known."""
    if bool(targets.isinf().any()):
        row, column = (int(index) for index in targets.isinf().nonzero()[0])
        raise DataError(
            f"target {labels[column]} of image {row} is infinite; expected a number, or NaN where it isn't known"
        )
