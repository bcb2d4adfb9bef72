"""Single images of any dataset: as they are in their files, their channels, and their names."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from petl.data.bands import Bands
from petl.data.datasets import Images
from petl.data.pairs import pick_keys
from petl.data.wrappers import locate
from petl.errors import PetlError

FIRST_TRIED = 50  # images, before nothing is known of the channels
GRAY_OR_COLOUR = (1, 3)  # petl reads one as the other


def image_channels(dataset: Any, expected: int) -> int:
    """Returns how many channels the images have; ``expected`` where petl makes these of the images' own, or nobody can tell."""
    item = _first_item(dataset)
    found = raw_channels(item)
    converted = not isinstance(item, Tensor) and found in GRAY_OR_COLOUR and expected in GRAY_OR_COLOUR
    return expected if found is None or converted else found


def _first_item(dataset: Any) -> Any:
    """Returns the first image that can be read, as it is in its file or as a Dataset gives it; None where none can."""
    for index in range(min(len(dataset), FIRST_TRIED)):
        owner, number = locate(dataset, index)
        try:
            return owner.raw(number) if isinstance(owner, Images) else _picture(owner[number])
        except (PetlError, OSError, ValueError):
            continue
    return None


def _picture(item: Any) -> Any:
    picked = pick_keys(item, None)
    first = picked[0] if isinstance(picked, (tuple, list)) else picked
    return torch.as_tensor(first) if isinstance(first, np.ndarray) and first.ndim == 3 else first


def raw_channels(image: Any) -> int | None:
    """Returns the channels of an image as it is in its file, without transparency: three of a palette, None if unknown."""
    if isinstance(image, Bands):
        return len(image.visible().array)
    if isinstance(image, Tensor):
        return int(image.shape[0]) if image.ndim == 3 else None
    if isinstance(image, np.ndarray):
        return 1 if image.ndim == 2 else int(min(image.shape[0], image.shape[-1])) if image.ndim == 3 else None
    if not hasattr(image, "getbands"):
        return None
    pages = getattr(image, "n_frames", 1) if image.format == "TIFF" and len(image.getbands()) == 1 else 1
    bands = [band for band in image.getbands() if band not in ("A", "a")]
    return pages if pages > 1 else 3 if image.mode in ("P", "PA", "CMYK") else len(bands)


def part_files(dataset: Any) -> list[str] | None:
    """Returns the path of each image of petl's own datasets, also inside of `Subset` and `ConcatDataset`; else None."""
    places = [locate(dataset, index) for index in range(len(dataset))]
    if not places or not all(isinstance(owner, Images) for owner, _ in places):
        return None
    return [owner.filename(number) for owner, number in places]


def picture_name(dataset: Any, index: int) -> str:
    """Returns the path of an image, or its number where it is no file."""
    owner, number = locate(dataset, index)
    return owner.filename(number) if isinstance(owner, Images) else f"image {index}"


def original(dataset: Any, index: int) -> Any:
    """Returns an image as it is in its file, or as a Dataset gives it, as an array."""
    owner, number = locate(dataset, index)
    found = owner.raw(number) if isinstance(owner, Images) else _picture(owner[number])
    return np.asarray(found.array if isinstance(found, Bands) else found)
