"""What every verb of guidance asks of labelled images before it says anything about them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from petl.errors import DataError, listing

LEAST = 4  # images of a class


def refuse_few_labels(verb: str, y: Tensor | None, classes: Sequence[str], *, least: int = LEAST) -> None:
    """Raises a DataError unless images have class numbers ``y`` [N], of two classes at least, each with ``least`` images or more.

    A class without any image is no fault: it may be in another part of the data.

    >>> refuse_few_labels("rank", torch.arange(8) % 2, ["cat", "dog"])
    """
    if y is None:
        raise DataError(
            f"{verb} needs a class for each image, and these have none; give a folder for each class, or a table"
        )
    if y.is_floating_point() or y.ndim != 1:
        raise DataError(
            f"{verb} needs one class for each image, and these have numbers or several labels; it can't use them"
        )
    if y.numel() and int(y.min()) < 0:
        raise DataError(f"label {int(y.min())}; expected class numbers from 0 on")
    counts = torch.bincount(y, minlength=len(classes))
    names = [*classes, *(str(number) for number in range(len(classes), len(counts)))]
    there = [(names[number], count) for number, count in enumerate(counts.tolist()) if count]
    if len(there) < 2:
        only = f", {there[0][0]!r}" if there else ""
        raise DataError(f"{verb} needs images of two classes or more; got {len(there)}{only}")
    _refuse_few(verb, there, least)


def refuse_few_read(verb: str, y: Tensor, asked: Tensor, classes: Sequence[str], *, least: int = LEAST) -> None:
    """Raises a DataError unless ``least`` images could be read of each class among those that were asked for.

    ``y`` are the class numbers of the images that were read, ``asked`` those of all that were to be read.
    """
    counts = torch.bincount(y, minlength=len(classes)).tolist()
    _refuse_few(
        f"{verb}: some images can't be read, and it",
        [(str(classes[int(n)]), int(counts[int(n)])) for n in asked.unique().tolist()],
        least,
    )


def _refuse_few(verb: str, there: Sequence[tuple[str, int]], least: int) -> None:
    few = [f"{name} ({count})" for name, count in there if count < least]
    if few:
        raise DataError(
            f"{verb} needs {least} images of each class or more; too few are of {listing(few)}; add images, or leave these "
            "classes out"
        )
