"""Reads images in their order, in batches, with worker processes or without: each image that can't be read keeps its reason."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from petl.data.bad_files import BAD_FILE, raising_bad_files
from petl.data.datasets import Images
from petl.data.decoding import Unreadable, open_file
from petl.data.pairs import describe_batch
from petl.data.transforms import Transform
from petl.data.wrappers import locate
from petl.errors import DataError
from petl.prediction.image_lists import ImageList, TarMember

Pipeline = Mapping[str, Any]
IMAGE_KEYS = ("image", "images", "pixel_values", "img", "x", 0)


@dataclass
class ReadBatch:
    """The images of one batch that could be read, float [n, C, H, W], with their names, and the others with their reasons."""

    names: list[str]
    images: Tensor | None
    skipped: list[tuple[str, str]]
    error: DataError | None = None  # one that all images have: a package is missing, say


class ReadImages(Dataset[tuple[str, Any]]):
    """A dataset of (name, tensor or error) from a list of images; the pipeline is made when the first image needs it."""

    def __init__(self, images: ImageList, pipeline: Callable[[], Pipeline]):
        self.images, self.pipeline = images, pipeline

    def __len__(self) -> int:
        return len(self.images)

    @functools.cached_property
    def transform(self) -> Transform:
        return Transform(self.pipeline())

    def __getitem__(self, index: int) -> tuple[str, Tensor | DataError]:
        try:
            return self.images.names[index], self._read(self.images.items[index])
        except OSError as error:
            return self.images.names[index], Unreadable(error.strerror or str(error))
        except DataError as error:
            return self.images.names[index], error

    def _read(self, item: Any) -> Tensor:
        if isinstance(item, TarMember):
            with open(item.tar, "rb") as file:
                file.seek(item.start)
                return self.transform(file.read(item.size))
        if hasattr(item, "read"):
            item = item.read()
        if isinstance(item, (Image.Image, np.ndarray, bytes)):
            return self.transform(as_picture(item))
        if isinstance(item, Tensor):
            return ready(item)
        with open_file(item) as file:
            return self.transform(file.read())


class ReadDataset(ReadImages):
    """The same around a dataset of images, or of pairs and dicts with an image in them."""

    def __init__(self, dataset: Any, pipeline: Callable[[], Pipeline]):
        super().__init__(ImageList([], []), pipeline)
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[str, Tensor | DataError]:
        name = item_name(self.dataset, index)
        try:
            with raising_bad_files():
                return name, self._read(image_in(self.dataset[index]))
        except DataError as error:  # those of petl's datasets begin with the file's name
            return name, type(error)(str(error).removeprefix(f"{name}: "))
        except (OSError, EOFError, SyntaxError) as error:  # of PIL, in a dataset of torchvision's
            return name, Unreadable(f"it can't be read: {error}")


def as_picture(image: Image.Image | np.ndarray | bytes) -> Image.Image | np.ndarray | bytes:
    """Returns an array of 8-bit gray or colour as a PIL image, which is resized as an image file is; others as they are."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and (image.ndim == 2 or image.shape[2] == 3):
        return Image.fromarray(image)
    return image


def ready(image: Tensor) -> Tensor:
    """Returns a tensor that a model takes as it is, or raises a DataError for whole numbers, which no transform has seen."""
    if not image.is_floating_point():
        raise DataError(
            f"got a tensor of {str(image.dtype).removeprefix('torch.')}; expected floats as the model takes them. An array or a "
            "PIL image goes through the model's pipeline: image.numpy()"
        )
    return image.detach().cpu()


def image_in(item: Any) -> Any:
    """Returns the image in an item or batch: the item itself, the first of a tuple, or what a dict has under a usual key."""
    if isinstance(item, Mapping):
        key = next((key for key in IMAGE_KEYS if key in item), None)
        image = None if key is None else item[key]
    else:
        image = item[0] if isinstance(item, (tuple, list)) and item else item
    if not isinstance(image, (Tensor, np.ndarray, Image.Image)):
        raise DataError(
            f"found no image in {describe_batch(item)}; expected an image, (image, label), or a dict with 'image'"
        )
    return image


def item_name(dataset: Any, index: int) -> str:
    """Returns the path of an item's file where the dataset knows it, else ``image 7``."""
    inner, number = locate(dataset, index)
    if isinstance(inner, Images) or callable(getattr(inner, "filename", None)):
        return str(inner.filename(number))
    samples = getattr(inner, "samples", None)  # torchvision's folders
    path = samples[number][0] if isinstance(samples, Sequence) and isinstance(samples[number], tuple) else None
    return path if isinstance(path, str) else f"image {index}"


def collate(items: Sequence[tuple[str, Tensor | DataError]]) -> ReadBatch:
    """Returns one batch of the images that could be read, and the reasons of the others."""
    good = [(name, image) for name, image in items if isinstance(image, Tensor)]
    bad = [(name, error) for name, error in items if isinstance(error, DataError)]
    fatal = next((type(error)(f"{name}: {error}") for name, error in bad if not isinstance(error, BAD_FILE)), None)
    shapes = {tuple(image.shape) for _, image in good}
    if len(shapes) > 1:
        fatal = DataError(f"images of one batch have the shapes {sorted(shapes)}; expected one shape, or batch_size=1")
    stacked = torch.stack([image for _, image in good]) if good and not fatal else None
    return ReadBatch([name for name, _ in good], stacked, [(name, str(error)) for name, error in bad], fatal)


def batches_in_order(dataset: ReadImages, ranges: list[range], workers: int) -> Iterable[ReadBatch]:
    """Returns the batches of a dataset with these indices; torch's random numbers stay as they are."""
    return DataLoader(
        dataset,
        batch_sampler=ranges,  # type: ignore[arg-type]  # a range does as a list of numbers
        collate_fn=collate,
        num_workers=workers,
        generator=torch.Generator(),
    )


def rank_ranges(count: int, batch_size: int, rank: int, ranks: int) -> list[range]:
    """Returns the indices of each batch of one rank: batches go round the ranks, smaller ones where there are few images.

    >>> rank_ranges(10, 4, rank=1, ranks=2)
    [range(4, 8)]
    """
    size = min(batch_size, max(1, -(-count // ranks)))
    return [range(start, min(start + size, count)) for start in range(rank * size, count, ranks * size)]
