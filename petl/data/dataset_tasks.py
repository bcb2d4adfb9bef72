"""What the targets of a dataset are, and what the outputs of a model for them stand for, also inside of wrappers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from petl.data.class_labels import dataset_classes, refuse_other_numbers
from petl.data.datasets import Images
from petl.data.wrappers import innermost_datasets, petl_datasets
from petl.errors import DataError, listing


def dataset_task(dataset: Any) -> str | None:
    """Returns "classification", "multilabel" or "regression" where `petl.data` made the dataset, also inside of wrappers.

    It is None where the dataset, or a part of it, is somebody else's: then only the targets can tell.

    Raises:
        DataError: parts of a ConcatDataset have targets of different kinds.

    >>> dataset_task([(0, 0)]) is None
    True
    """
    own = petl_datasets(dataset)
    tasks = list(dict.fromkeys(getattr(part, "task", "classification") for part in own))
    if len(tasks) > 1:
        raise DataError(
            f"the targets are those of a {tasks[0]} in one part and of a {tasks[1]} in another of a {type(dataset).__name__}; "
            "make all parts with targets of one kind"
        )
    others = not own or any(not any(part is known for known in own) for part in innermost_datasets(dataset))
    return None if others else tasks[0]


def dataset_target_names(dataset: Any) -> list[str] | None:
    """Returns the names of classes or labels, or of a table's columns of numbers; None where the dataset has none.

    Raises:
        DataError: they differ between parts of a ConcatDataset.
    """
    if dataset_task(dataset) != "regression":
        return dataset_classes(dataset)
    names = list(dict.fromkeys(tuple(part.target_names) for part in petl_datasets(dataset) if isinstance(part, Images)))
    if len(names) > 1:
        both = " in one part and ".join(f"({listing(each)})" for each in names[:2])
        raise DataError(f"the numbers are {both} in another; make all parts with the same targets=[...]")
    return list(names[0])


def refuse_other_order(dataset: Any, names: Sequence[str] | None) -> None:
    """Raises a DataError where the data has the classes, labels or numbers of the model's outputs in other places."""
    if dataset_task(dataset) != "regression":
        refuse_other_numbers(dataset, names)
        return
    if names is None:
        return
    own, known = dataset_target_names(dataset) or [], [str(name) for name in names]
    if any(name in known and (len(known) != len(own) or known[place] != name) for place, name in enumerate(own)):
        raise DataError(
            f"the data's numbers are {listing(own)}, and the model's outputs {listing(known)}; read the same columns in the same "
            f"order: targets={known} (on the command line: --data targets={','.join(known)})"
        )
