"""Mean and standard deviation of your own images, for each channel."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from petl.data.bad_files import BAD_FILE
from petl.data.bands import Bands
from petl.data.channels import DEEP_MODES, SIMPLE_MODES, fit_channels
from petl.data.datasets import Images
from petl.data.decoding import RawImage, decode
from petl.data.readers import Reader, existing_path, make_reader
from petl.data.reading import Reading
from petl.data.table_files import is_table_file
from petl.data.table_sources import table_reader
from petl.data.wrappers import locate
from petl.errors import DataError, printable

log = logging.getLogger(__name__)


class Statistics(NamedTuple):
    """Mean and standard deviation of each channel, over all pixels of all images, in the scale of the pipeline (0..1)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def statistics(dataset: Any, channels: int | None = None, *, pipeline: Mapping[str, Any] | None = None) -> Statistics:
    """Returns mean and standard deviation of each channel, over the pixels of all images, uncropped.

    Integers count as 0..1 by the range of their type, as `petl.data.image` takes them. Files that can't be used are left out, and
    so are pixels that a file marks as having no data. Images are read one by one, and sums are kept in float64.

    Args:
        dataset: petl's own dataset of the training images, also a part of it (`Subset`), or a folder or table file of them.
        channels: As the model takes them; None: as the first image has them.
        pipeline: Says how the files of a folder are read, for instance with which window; see `petl.data.pipeline`.

    Raises:
        DataError: It is no such dataset, or no image can be read.

    Example:
        >>> import tempfile, pathlib, numpy
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name, value in (("dark", 0), ("bright", 255)):
        ...         pathlib.Path(folder, name).mkdir()
        ...         numpy.save(pathlib.Path(folder, name, "1.npy"), numpy.full((4, 4), value, numpy.uint8))
        ...     statistics(folder)
        Statistics(mean=(0.5,), std=(0.5,))
    """
    moments: Moments | None = None
    for image in _raw_images(dataset, Reading.of(pipeline or {})):
        try:
            channels = channels or _own_channels(image)
            values = _pixel_values(fit_channels(image, channels, fill=(math.nan,)))
        except BAD_FILE as error:
            log.warning("left out of the statistics: %s", error)
            continue
        moments = moments or Moments(channels)
        moments.add(values)
    if moments is None or not moments.count.all():
        raise DataError("no image can be read, so there is nothing to take the statistics of")
    mean, std = moments.mean, np.sqrt(moments.squares / moments.count)
    if not std.all():
        flat = [int(k) for k in np.flatnonzero(std == 0)]
        raise DataError(
            f"channels {flat} have the same value everywhere, so they can't be scaled; leave them out of the images"
        )
    return Statistics(tuple(mean.tolist()), tuple(std.tolist()))


class Moments:
    """Counts, means and sums of squared deviations [k] of values that come in parts, by the update of Chan, Golub and LeVeque."""

    def __init__(self, channels: int):
        self.count, self.mean, self.squares = np.zeros((3, channels))

    def add(self, values: np.ndarray) -> None:
        """Adds values [k, n] in float64; those that are NaN don't count."""
        known = ~np.isnan(values)
        count = known.sum(1)
        mean = np.where(known, values, 0).sum(1) / np.maximum(count, 1)
        squares = (np.where(known, values - mean[:, None], 0) ** 2).sum(1)
        total, change = self.count + count, mean - self.mean
        share = count / np.maximum(total, 1)
        self.squares = self.squares + squares + change**2 * self.count * share
        self.mean, self.count = self.mean + change * share, total


def _raw_images(dataset: Any, reading: Reading) -> Iterator[RawImage]:
    """Yields the images as they are in their files; files that can't be read are left out."""
    source = dataset
    if is_table_file(dataset):
        source = table_reader(dataset, split="train")
    elif isinstance(dataset, (str, Path)):
        source = make_reader(existing_path(Path(dataset)), split="train")
    for index in range(len(source)):
        leaf, number = (source, index) if isinstance(source, Reader) else locate(source, index)
        if not isinstance(leaf, (Reader, Images)):
            raise DataError(
                f"statistics of a {type(leaf).__name__}; expected a folder, or what petl.data.dataset gives"
            )
        try:
            yield leaf.raw(number) if isinstance(leaf, Images) else _decoded_file(leaf, number, reading)
        except (*BAD_FILE, OSError) as error:
            log.warning("left out of the statistics: %s: %s", printable(leaf.filename(number)), error)


def _decoded_file(source: Reader, index: int, reading: Reading) -> RawImage:
    with source[index][0] as file:
        return decode(file.read(), reading)


def _own_channels(image: RawImage) -> int:
    """Returns the number of channels that an image has in its file."""
    if isinstance(image, Bands):
        return len(image.visible().array)
    if isinstance(image, np.ndarray):
        return 1 if image.ndim == 2 else min(image.shape[0], image.shape[-1])
    if image.mode in DEEP_MODES or SIMPLE_MODES.get(image.mode, image.mode) in ("L", "LA"):
        return getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    return 3


def _pixel_values(image: Image.Image | Tensor) -> np.ndarray:
    """Returns [k, pixels] in float64, in the scale of the pipeline."""
    if isinstance(image, Tensor):
        return image.numpy().reshape(len(image), -1).astype(np.float64)
    array = np.asarray(image, dtype=np.float64) / 255
    return array.reshape(-1, 1 if array.ndim == 2 else array.shape[-1]).T
