"""Class names and class numbers of a dataset, also through `Subset` and `ConcatDataset`, and errors where they can't be right."""

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
    """The class names that a dataset brings, in the order of its class numbers; None where it has none.

    They are looked for in ``dataset.classes``, then in what the dataset wraps.

    Raises:
        DataError: parts of a ConcatDataset number their classes differently, so that a number means several classes.

    Example:
        >>> class_names([(0, 0)]) is None
        True
    """
    own = _class_words(getattr(dataset, "classes", None))
    if own is not None:
        return own
    found: list[list[str]] = []
    for names in filter(None, map(dataset_classes, wrapped_datasets(dataset))):
        if names not in found:
            found.append(names)
    if len(found) > 1:
        both = " in one part and ".join(f"({listing(names)})" for names in found[:2])
        raise DataError(
            f"class numbers mean {both} in another of a {type(dataset).__name__}; make all parts with the same "
            f"names: petl.data.dataset(folder, petl.data.pipeline(model), classes=names)"
        )
    return found[0] if found else None


def _class_words(classes: Any) -> list[str] | None:
    """Names as ``classes`` attributes have them; torchvision's ImageNet has tuples of synonyms. None for anything else."""
    if isinstance(classes, (str, bytes)) or not isinstance(classes, (Sequence, np.ndarray)) or not len(classes):
        return None
    return [str(name[0]) if isinstance(name, (tuple, list)) and name else str(name) for name in classes]


def refuse_one_class(dataset: Any) -> None:
    """A DataError where all images that one is to train on are of one class."""
    names, numbers = dataset_classes(dataset), dataset_targets(dataset, reading=False)
    found = {*numbers.tolist()} if numbers is not None else {*range(len(names))} if names else set()
    if len(found) == 1:
        only = found.pop()
        name = names[only] if names and only < len(names) else only
        notes = [note for origin in petl_datasets(dataset) for note in getattr(origin.source, "notes", ())]
        raise DataError(
            f"all images to train on are of one class, {name!r}, so there is nothing to tell apart; expected a folder "
            f"for each class{'. ' if notes else ''}{'; '.join(notes)}"
        )


def refuse_other_numbers(dataset: Any, classes: Sequence[str] | None) -> None:
    """A DataError where the dataset's numbers for ``classes`` are others, so that every answer would be taken for another."""
    names = dataset_classes(dataset) if classes is not None else None
    for number, name in enumerate(names or ()):
        if name in classes and list(classes).index(name) != number:  # type: ignore[operator, arg-type]  # not None here
            raise DataError(
                f"class {name!r} has number {number} in the data and {list(classes).index(name)} in the model; make the "  # type: ignore[arg-type]
                "dataset with the model's names: petl.data.dataset(folder, petl.data.pipeline(model), "
                "classes=petl.record(model).labels)"
            )


def dataset_targets(dataset: Any, *, reading: bool = True) -> np.ndarray | None:
    """The class number of every item; None where they can't be had, or, without ``reading``, not without reading the images."""
    if isinstance(dataset, Images):
        return dataset.targets if reading or lists_labels(dataset.source) else None
    if isinstance(dataset, Subset):
        inner = dataset_targets(dataset.dataset, reading=reading)
        return None if inner is None else inner[np.asarray(dataset.indices, dtype=np.int64)]
    found = [dataset_targets(one, reading=reading) for one in wrapped_datasets(dataset)]
    return np.concatenate(found) if found and all(one is not None for one in found) else None  # type: ignore[arg-type]
