"""Class names and class numbers of a dataset, also inside of `Subset` and `ConcatDataset`, and checks of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Subset

from petl.data.datasets import Images
from petl.data.source_labels import lists_labels
from petl.data.wrappers import petl_datasets, wrapped_datasets
from petl.errors import DataError, listing


def dataset_classes(dataset: Any) -> list[str] | None:
    """Returns the class names of a dataset, in the order of its class numbers; None where it has no names.

    Names are looked up in ``dataset.classes``, then in the datasets that it wraps.

    Raises:
        DataError: parts of a ConcatDataset number their classes differently, so that a number means several classes.

    Example:
        >>> dataset_classes([(0, 0)]) is None
        True
    """
    own = _as_names(getattr(dataset, "classes", None))
    if own is not None:
        return own
    different: list[list[str]] = []
    for names in filter(None, map(dataset_classes, wrapped_datasets(dataset))):
        if names not in different:
            different.append(names)
    if len(different) > 1:
        both = " in one part and ".join(f"({listing(names)})" for names in different[:2])
        raise DataError(
            f"class numbers mean {both} in another of a {type(dataset).__name__}; make all parts with the same "
            f"names: petl.data.dataset(folder, petl.data.pipeline(model), classes=names)"
        )
    return different[0] if different else None


def _as_names(classes: Any) -> list[str] | None:
    """Returns the names in a ``classes`` attribute (torchvision's ImageNet has tuples of synonyms); None for anything else."""
    if isinstance(classes, (str, bytes)) or not isinstance(classes, (Sequence, np.ndarray)) or not len(classes):
        return None
    return [str(name[0]) if isinstance(name, (tuple, list)) and name else str(name) for name in classes]


def refuse_one_class(dataset: Any) -> None:
    """Raises a DataError if all training images are of one class."""
    names, numbers = dataset_classes(dataset), dataset_targets(dataset, reading=False)
    if numbers is not None and not are_class_numbers(numbers):
        return
    classes = {*numbers.tolist()} if numbers is not None else {*range(len(names))} if names else set()
    if len(classes) == 1:
        only = classes.pop()
        name = names[only] if names and only < len(names) else only
        notes = [note for own in petl_datasets(dataset) for note in getattr(own.source, "notes", ())]
        raise DataError(
            f"all images to train on are of one class, {name!r}, so there is nothing to tell apart; expected a folder "
            f"for each class{'. ' if notes else ''}{'; '.join(notes)}"
        )


def are_class_numbers(targets: np.ndarray) -> bool:
    """Returns whether targets are one whole number for each image, rather than numbers or several labels."""
    return targets.ndim == 1 and targets.dtype.kind in "iu"


def refuse_other_numbers(dataset: Any, classes: Sequence[str] | None) -> None:
    """Raises a DataError if a class has another number in the dataset than in ``classes``: each prediction would be misread."""
    names = dataset_classes(dataset) if classes is not None else None
    for number, name in enumerate(names or ()):
        if name in classes and list(classes).index(name) != number:  # type: ignore[operator, arg-type]  # not None here
            raise DataError(
                f"class {name!r} has number {number} in the data and {list(classes).index(name)} in the model; make the "  # type: ignore[arg-type]
                "dataset with the model's names: petl.data.dataset(folder, petl.data.pipeline(model), "
                "classes=petl.record(model).labels)"
            )


def dataset_targets(dataset: Any, *, reading: bool = True) -> np.ndarray | None:
    """Returns the class number of every item, or None where a dataset doesn't list them.

    With ``reading``, the images of an `Images` are read if its source doesn't list its class numbers.
    """
    if isinstance(dataset, Images):
        return dataset.targets if reading or lists_labels(dataset.source) else None
    if isinstance(dataset, Subset):
        inner = dataset_targets(dataset.dataset, reading=reading)
        return None if inner is None else inner[np.asarray(dataset.indices, dtype=np.int64)]
    parts = [dataset_targets(part, reading=reading) for part in wrapped_datasets(dataset)]
    return np.concatenate(parts) if parts and all(part is not None for part in parts) else None  # type: ignore[arg-type]
