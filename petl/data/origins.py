"""What is inside torch's own wrappers of datasets: `Subset` (so `random_split`), `ConcatDataset`, one in the other.

They hand out the same pairs but know neither class names nor the input pipeline; those are asked for here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import ChainDataset, ConcatDataset, Dataset, Subset

from petl.data.datasets import Images, Stream, tells
from petl.errors import DataError, listing


class Around(Dataset[Any]):
    """A dataset of petl's own around another one: the same pairs, in the same places."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)


def parts(dataset: Any) -> list[Any]:
    """The datasets that a wrapper of torch's or petl's holds; [] for everything else."""
    if isinstance(dataset, (Around, Subset)):
        return [dataset.dataset]
    return list(dataset.datasets) if isinstance(dataset, (ConcatDataset, ChainDataset)) else []


def leaves(dataset: Any) -> Iterator[Any]:
    """The datasets at the bottom, in the order of their images; each as often as it occurs."""
    inner = parts(dataset)
    if not inner:
        yield dataset
    for one in inner:
        yield from leaves(one)


def origins(dataset: Any) -> list[Images | Stream]:
    """petl's own datasets among them, each once."""
    found: list[Images | Stream] = []
    for leaf in leaves(dataset):
        if isinstance(leaf, (Images, Stream)) and not any(leaf is known for known in found):
            found.append(leaf)
    return found


def place(dataset: Any, index: int) -> tuple[Any, int]:
    """The dataset at the bottom that holds item ``index``, and its number there."""
    if isinstance(dataset, Around):
        return place(dataset.dataset, index)
    if isinstance(dataset, Subset):
        return place(dataset.dataset, int(dataset.indices[index]))
    if isinstance(dataset, ConcatDataset):
        number = int(np.searchsorted(dataset.cumulative_sizes, index, side="right"))
        return place(dataset.datasets[number], index - (dataset.cumulative_sizes[number - 1] if number else 0))
    return dataset, index


def class_names(dataset: Any) -> list[str] | None:
    """The class names that a dataset brings, in the order of its class numbers; None where it has none.

    They are looked for in ``dataset.classes``, then in what the dataset wraps.

    Raises:
        DataError: parts of a ConcatDataset number their classes differently, so that a number means several classes.

    Example:
        >>> class_names([(0, 0)]) is None
        True
    """
    own = _words(getattr(dataset, "classes", None))
    if own is not None:
        return own
    found: list[list[str]] = []
    for names in filter(None, map(class_names, parts(dataset))):
        if names not in found:
            found.append(names)
    if len(found) > 1:
        both = " in one part and ".join(f"({listing(names)})" for names in found[:2])
        raise DataError(
            f"class numbers mean {both} in another of a {type(dataset).__name__}; make all parts with the same "
            f"names: petl.data.dataset(folder, petl.data.pipeline(model), classes=names)"
        )
    return found[0] if found else None


def _words(classes: Any) -> list[str] | None:
    """Names as ``classes`` attributes have them; torchvision's ImageNet has tuples of synonyms. None for anything else."""
    if isinstance(classes, (str, bytes)) or not isinstance(classes, (Sequence, np.ndarray)) or not len(classes):
        return None
    return [str(name[0]) if isinstance(name, (tuple, list)) and name else str(name) for name in classes]


def pipeline_of(dataset: Any) -> dict[str, Any] | None:
    """The input pipeline of petl's own datasets in ``dataset``; None where there are none.

    An attribute of this name that another library's dataset has is something else, and is not asked.

    Raises:
        DataError: the parts of a ConcatDataset have different pipelines.
    """
    found = [origin.pipeline for origin in origins(dataset)]
    if any(one != found[0] for one in found):
        odd = next(key for one in found for key in one if one != found[0] and one[key] != found[0].get(key))
        raise DataError(
            f"parts of a {type(dataset).__name__} have different input pipelines ({odd}); make all of them with one: "
            f"petl.data.dataset(folder, petl.data.pipeline(model))"
        )
    return found[0] if found else None


def refuse_one_class(dataset: Any) -> None:
    """A DataError where all images that one is to train on are of one class."""
    names, numbers = class_names(dataset), class_numbers(dataset, reading=False)
    found = {*numbers.tolist()} if numbers is not None else {*range(len(names))} if names else set()
    if len(found) == 1:
        only = found.pop()
        name = names[only] if names and only < len(names) else only
        notes = [note for origin in origins(dataset) for note in getattr(origin.source, "notes", ())]
        raise DataError(
            f"all images to train on are of one class, {name!r}, so there is nothing to tell apart; expected a folder "
            f"for each class{'. ' if notes else ''}{'; '.join(notes)}"
        )


def refuse_other_numbers(dataset: Any, classes: Sequence[str] | None) -> None:
    """A DataError where the dataset's numbers for ``classes`` are others, so that every answer would be taken for another."""
    names = class_names(dataset) if classes is not None else None
    for number, name in enumerate(names or ()):
        if name in classes and list(classes).index(name) != number:  # type: ignore[operator, arg-type]  # not None here
            raise DataError(
                f"class {name!r} has number {number} in the data and {list(classes).index(name)} in the model; make the "  # type: ignore[arg-type]
                "dataset with the model's names: petl.data.dataset(folder, petl.data.pipeline(model), "
                "classes=petl.record(model).labels)"
            )


def class_numbers(dataset: Any, *, reading: bool = True) -> np.ndarray | None:
    """The class number of every item; None where they can't be had, or, without ``reading``, not without reading the images."""
    if isinstance(dataset, Images):
        return dataset.targets if reading or tells(dataset.source) else None
    if isinstance(dataset, Subset):
        inner = class_numbers(dataset.dataset, reading=reading)
        return None if inner is None else inner[np.asarray(dataset.indices, dtype=np.int64)]
    found = [class_numbers(one, reading=reading) for one in parts(dataset)]
    return np.concatenate(found) if found and all(one is not None for one in found) else None  # type: ignore[arg-type]
