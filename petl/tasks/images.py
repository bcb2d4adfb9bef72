"""Checks the images of a batch of several tasks, and puts those of one shape together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from petl.errors import DataError


class ImageStack(NamedTuple):
    """Images of one shape [n, C, H, W], and their places among all images."""

    rows: list[int]
    images: Tensor


def by_shape(x: Tensor | Iterable[Tensor]) -> list[ImageStack]:
    """Returns the images as batches of one shape each.

    Raises:
        DataError: there are none, or they aren't tensors of floating-point numbers.
    """
    if isinstance(x, Tensor):
        if x.ndim != 4 or not len(x):
            raise DataError(f"got a tensor {tuple(x.shape)}; expected at least one image, [N, channels, height, width]")
        _refuse_type(x)
        return [ImageStack([*range(len(x))], x)]
    if not isinstance(x, Iterable):
        raise DataError(f"got a {type(x).__name__}; expected images [N, channels, height, width], or a list of images")
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
    return [ImageStack(places, _stacked([images[row] for row in places])) for places in rows.values()]


def _stacked(images: list[Tensor]) -> Tensor:
    """Returns images of one shape, which may differ in type and place, as one tensor."""
    return torch.stack([image.to(images[0]) for image in images])


def _refuse_type(x: Tensor) -> None:
    if not x.is_floating_point():
        raise DataError(
            f"the images are of {x.dtype}; expected floating-point numbers as the models take them: petl.data.pipeline(model) "
            "says how images become those"
        )
