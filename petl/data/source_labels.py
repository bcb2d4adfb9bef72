"""Class names and class numbers of a source of images: one of timm's readers, or a dataset of torchvision's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import IterableDataset

from petl.errors import DataError, listing, near


def source_classes(source: Any) -> list[str]:
    """Returns the class names in the order of their numbers: the numbers where there are no names, [] for a stream without."""
    if (names := getattr(source, "class_names", None)) is not None:  # a table
        return list(names)
    if classes := getattr(source, "classes", None):  # torchvision; for ImageNet, tuples of synonyms
        return [name if isinstance(name, str) else str(name[0]) for name in classes]
    reader = getattr(source, "reader", source)
    numbers = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)
    if numbers:
        return sorted(numbers, key=numbers.__getitem__)
    return [] if isinstance(source, IterableDataset) else [str(i) for i in range(int(max(source_targets(source))) + 1)]


def renumbering(own: Sequence[str], classes: Sequence[str]) -> dict[int, int]:
    """Returns {class number in the source: class number in ``classes``}, matched by name.

    Raises:
        DataError: a class of the source isn't among ``classes``.
    """
    if unknown := [name for name in own if name not in classes]:
        raise DataError(
            f"class {listing(map(repr, unknown))} is not among the {len(classes)} expected classes "
            f"({listing(classes)}){near(unknown[0], classes)}"
        )
    return {i: list(classes).index(name) for i, name in enumerate(own)}


def lists_labels(source: Any) -> bool:
    """Returns whether a source knows its class numbers without reading its images."""
    return any(hasattr(source, name) for name in ("iter_targets", "targets", "samples"))


def source_targets(source: Any) -> Sequence[Any]:
    """Returns the target of each image as the source has it; images are read only where the source doesn't list them."""
    if hasattr(source, "iter_targets"):  # Hugging Face
        return [int(target) for target in source.iter_targets()]
    if hasattr(source, "targets"):  # tar, torchvision
        return source.targets
    if hasattr(source, "samples"):  # folders
        return [target for _, target in source.samples]
    return [int(source[i][1]) for i in range(len(source))]
