"""Checks the images of a batch of several tasks, and puts those of one shape together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from petl.errors import DataError


def by_shape(x: Tensor | Sequence[Tensor]) -> list[tuple[list[int], Tensor]]:
    """Returns the images as batches [n, C, H, W] of one shape each, with the places of their rows.

    Raises:
        DataError: there are none, or they aren't tensors of floating-point numbers.
    """
    if isinstance(x, Tensor):
        if x.ndim != 4 or not len(x):
            raise DataError(f"got a tensor {tuple(x.shape)}; expected at least one image, [N, channels, height, width]")
        _refuse_type(x)
        return [([*range(len(x))], x)]
    images = [*x]
    for image in images:
        if not isinstance(image, Tensor) or image.ndim != 3:
            shown = f"a tensor {tuple(image.shape)}" if isinstance(image, Tensor) else f"a {type(image).__name__}"
            raise DataError(f"the list of images holds {shown}; expected tensors [channels, height, width]")
        _refuse_type(image)
    if not images:
        raise DataError("got an empty list of images; expected at least one")
    rows: dict[torch.Size, list[int]] = {}
    for row, image in enumerate(images):
        rows.setdefault(image.shape, []).append(row)
    return [(places, torch.stack([images[row] for row in places])) for places in rows.values()]


def _refuse_type(x: Tensor) -> None:
    if not x.is_floating_point():
        raise DataError(
            f"the images are of {x.dtype}; expected floating-point numbers as the models take them: petl.data.pipeline(model) "
            "says how images become those"
        )
