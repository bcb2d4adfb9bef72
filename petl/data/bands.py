"""Reads files that hold more than PIL's modes: TIFFs of any number of bands and bits (by tifffile), PNGs of 16-bit colours.

PIL refuses some of these, and silently opens others with bands or bits missing. So it reads only files that it reads whole.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import TiffImagePlugin

from petl.errors import DataError

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: files of more than 4 GB
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLES_PER_PIXEL, EXTRA_SAMPLES = 258, 262, 277, 338  # TIFF tags
ALPHA_SAMPLES = (1, 2)  # what kinds of extra samples are transparency
COLOUR_TYPES, ALPHA_TYPES = (2, 4, 6), (4, 6)  # PNG's colour types with several channels


@dataclass(frozen=True)
class Bands:
    """An image [k, H, W] whose first axis is certainly that of the channels.

    bits: how many of the type's bits are used, None for all. alpha: whether the last channel is transparency.
    """

    array: np.ndarray
    bits: int | None = None
    alpha: bool = False

    def visible(self) -> np.ndarray:
        """Returns the channels without transparency."""
        return self.array[:-1] if self.alpha else self.array


def read_bands(data: bytes) -> Bands | None:
    """Returns the bands of a file that PIL doesn't read whole; None for any other file.

    Raises:
        DataError: tifffile is needed and isn't installed, or the TIFF's pages aren't channels of one image.
    """
    if data.startswith(PNG_MAGIC):
        deep = len(data) > 25 and data[24] == 16 and data[25] in COLOUR_TYPES
        return _png_bands(data) if deep else None
    return None if not data.startswith(TIFF_MAGIC) or _pil_reads_all(data) else _tiff_bands(data)


def _pil_reads_all(data: bytes) -> bool:
    """Returns whether PIL reads all bands and bits of a TIFF, by the tags of its first page."""
    tags = tiff_tags(io.BytesIO(data))
    samples, deepest = int(tags.get(SAMPLES_PER_PIXEL, 1)), max(tags.get(BITS_PER_SAMPLE, (1,)))
    extra = tags.get(EXTRA_SAMPLES, ())
    colours = {0: 1, 1: 1, 5: 4}.get(tags.get(PHOTOMETRIC, 1), 3)  # gray, gray, ink; RGB, YCbCr and Lab
    known = not extra or (len(extra) == 1 and extra[0] in ALPHA_SAMPLES)
    return samples == 1 or (deepest <= 8 and known and samples - len(extra) == colours)


def tiff_tags(file: BinaryIO) -> Mapping[int, Any]:
    """Returns the tags of a TIFF's first page, without reading the image, and without what PIL would log about them."""
    header = file.read(8)
    if header[2] == 43 or header[3] == 43:  # of more than 4 GB: offsets take 8 bytes
        header += file.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(header)
    file.seek(tags.next)
    tags.load(file)
    return tags


def _png_bands(data: bytes) -> Bands | None:
    try:
        from torchvision.io import ImageReadMode, decode_png
    except ImportError:  # torchvision announces that its decoders will go; PIL then gives 8 of the 16 bits
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pixels = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    return Bands(pixels.numpy(), alpha=data[25] in ALPHA_TYPES)


def _tiff_bands(data: bytes) -> Bands:
    try:
        import tifffile
    except ImportError as error:
        raise DataError(
            "a TIFF with these bands or bits needs tifffile, which is not installed: pip install 'petl-vision[tiff]'"
        ) from error
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        image = file.series[0]
        page: Any = file.pages[0]
        array = _bands_first(image.asarray(), image.axes)
        bits = page.bitspersample
        extra = [int(kind) for kind in page.extrasamples or ()]
    used = bits if isinstance(bits, int) and array.dtype.kind in "iu" and bits < 8 * array.dtype.itemsize else None
    return Bands(array, used, alpha=bool(extra) and extra[-1] in ALPHA_SAMPLES)


def _bands_first(array: np.ndarray, axes: str) -> np.ndarray:
    """Returns [k, H, W] of an array whose axes are named in ``axes``; axes of length 1 are dropped."""
    for place in reversed([i for i, name in enumerate(axes) if name not in "YX" and array.shape[i] == 1]):
        array, axes = array.squeeze(place), axes[:place] + axes[place + 1 :]
    others = [name for name in axes if name not in "YX"]
    if len(others) > 1 or axes.count("Y") != 1 or axes.count("X") != 1:
        shape = ", ".join(f"{name} {size}" for name, size in zip(axes, array.shape, strict=True))
        raise DataError(f"a TIFF of {shape}; expected one image of [bands, H, W]")
    order = [axes.index(name) for name in (*others, "Y", "X")]
    ordered = array.transpose(order)
    return ordered if others else ordered[None]
