"""Images that are there twice: in one part, across the parts, under two labels, or among new images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from petl.advice.opened import ImagePart
from petl.advice.single_images import original
from petl.measures.near_duplicates import groups_of, near_duplicates


@dataclass(frozen=True)
class Copies:
    """Images that are one picture: their ``files`` (or numbers), with the ``parts`` and ``labels`` that they are in.

    ``exact``: all have the same bytes or the same pixels. Else some are almost the same picture: saved again, or of another size.
    """

    files: tuple[str, ...]
    parts: tuple[str, ...]
    labels: tuple[str | None, ...]
    exact: bool


@dataclass(frozen=True)
class Duplicates:
    """The groups of images that are one picture.

    Attributes:
        groups: All of them; exact ones were looked for among all files (and tensors in memory), others among the images that were
            measured.
        within: How many images of the training part could be left out, as another one is the same picture; ``within_exact`` of
            them bit for bit.
        across: How many images of the data's own split are also in the training part.
        new: How many of the new images are also in the training part; None without new images.
        conflicting: How many groups have members with different labels.
    """

    groups: tuple[Copies, ...]
    within: int
    within_exact: int
    across: int
    new: int | None
    conflicting: int


@dataclass(frozen=True)
class PartPictures:
    """What is compared of a part: names and labels of all its images, fingerprints, and features of the measured ``rows``."""

    part: ImagePart
    names: Sequence[str]
    labels: Sequence[str | None]
    prints: Sequence[str | None]
    rows: Sequence[int]
    x: Tensor
    pictures: Tensor


def find_duplicates(parts: Mapping[str, PartPictures]) -> Duplicates:
    """Returns the images of all parts that are one picture."""
    numbers = {(name, row): place for place, (name, row) in enumerate(_every_row(parts))}
    keys = list(numbers)
    near = list(_near(parts))
    exact = _numbered([*_same_bytes(parts), *((one, other) for one, other, equal in near if equal)], numbers)
    of_exact = {number: place for place, group in enumerate(groups_of(exact)) for number in group}
    groups = []
    for members in groups_of([*exact, *_numbered([(one, other) for one, other, _ in near], numbers)]):
        same = len({of_exact.get(number, -1 - number) for number in members}) == 1
        groups.append(_copies(parts, [keys[number] for number in members], exact=same))
    return _counted_copies(groups, of_exact, keys, has_new="new" in parts)


def _numbered(pairs: Sequence[tuple[Any, Any]], numbers: Mapping[Any, int]) -> list[tuple[int, int]]:
    return [(numbers[one], numbers[other]) for one, other in pairs]


def _counted_copies(
    groups: list[Copies], of_exact: Mapping[int, int], keys: Sequence[tuple[str, int]], *, has_new: bool
) -> Duplicates:
    spare = across = new = conflicting = 0
    for group in groups:
        train = group.parts.count("train")
        spare += max(0, train - 1)
        across += group.parts.count("own split") if train else 0
        new += group.parts.count("new") if train else 0
        known = {label for label in group.labels if label is not None}
        conflicting += len(known) > 1
    bytes_groups: dict[int, int] = {}
    for number, place in of_exact.items():
        bytes_groups[place] = bytes_groups.get(place, 0) + (keys[number][0] == "train")
    spare_exact = sum(max(0, count - 1) for count in bytes_groups.values())
    return Duplicates(tuple(groups), spare, spare_exact, across, new if has_new else None, conflicting)


def _every_row(parts: Mapping[str, PartPictures]) -> Iterator[tuple[str, int]]:
    for name, pictures in parts.items():
        yield from ((name, row) for row in range(len(pictures.names)))


def _copies(parts: Mapping[str, PartPictures], members: list[tuple[str, int]], *, exact: bool) -> Copies:
    return Copies(
        tuple(parts[name].names[row] for name, row in members),
        tuple(name for name, _ in members),
        tuple(parts[name].labels[row] for name, row in members),
        exact,
    )


def _same_bytes(parts: Mapping[str, PartPictures]) -> Iterator[tuple[tuple[str, int], tuple[str, int]]]:
    """Yields pairs of images whose files are equal byte for byte, each with the first one."""
    first: dict[str, tuple[str, int]] = {}
    for name, pictures in parts.items():
        for row, text in enumerate(pictures.prints):
            if text is not None and first.setdefault(text, (name, row)) != (name, row):
                yield first[text], (name, row)


def _near(parts: Mapping[str, PartPictures]) -> Iterator[tuple[tuple[str, int], tuple[str, int], bool]]:
    """Yields pairs of measured images that are almost one picture, and whether all pixels are equal."""
    names = list(parts)
    for place, name in enumerate(names):
        one = parts[name]
        for other_name in names[place:]:
            other = parts[other_name]
            second = None if other is one else (other.x, other.pictures)
            for pair in near_duplicates(one.x, one.pictures, second):
                a, b = one.rows[pair.first], other.rows[pair.second]
                alike = bool((one.pictures[pair.first] - other.pictures[pair.second]).abs().max() < 1e-5)
                equal = alike and _equal_pixels(one.part.dataset, a, other.part.dataset, b)
                yield (name, a), (other_name, b), equal


def _equal_pixels(one: Any, a: int, other: Any, b: int) -> bool:
    first, second = original(one, a), original(other, b)
    return first.shape == second.shape and bool(np.array_equal(first, second))
