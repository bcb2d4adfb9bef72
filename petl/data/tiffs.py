"""Reads TIFFs of any number of bands and bits, by tifffile, with palettes, masks and values that stand for "no data".

PIL refuses some of these, and silently opens others with bands or bits missing. So it reads only files that it reads whole.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import TiffImagePlugin

from petl.data.bands import Bands
from petl.data.rasters import read_raster
from petl.data.reading import Unreadable
from petl.errors import DataError

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: files of more than 4 GB
# TIFF tags
SUBFILE_TYPE, BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLES_PER_PIXEL, EXTRA_SAMPLES, NO_DATA = 254, 258, 262, 277, 338, 42113
SAMPLE_FORMAT, UNSIGNED, SIGNED = 339, 1, 2
REDUCED, MASK = 1, 4  # bits of SUBFILE_TYPE
WHITE_IS_ZERO, PALETTE, LAB = 0, 3, (8, 9, 10)  # values of PHOTOMETRIC
ALPHA_SAMPLES = (1, 2)  # what kinds of extra samples are transparency
PAGES_LOOKED_AT = 16


def read_tiff(data: bytes, library: Literal["tifffile", "rasterio"] | None = None) -> Bands | None:
    """Returns the bands of a TIFF that PIL doesn't read whole, or that a ``library`` is to read; None for any other file.

    Raises:
        DataError: the library is needed and isn't installed, or the TIFF's pages aren't channels of one image.
    """
    if library == "rasterio":
        return read_raster(data)
    return None if library is None and _pil_reads_all(data) else tiff_bands(data)


def tiff_bands(data: bytes) -> Bands:
    """Returns the bands of a TIFF as tifffile reads it, or else rasterio.

    Raises:
        DataError: as `read_tiff`.
    """
    try:
        import tifffile
    except ImportError as error:
        raise DataError(
            "a TIFF with these bands or bits needs tifffile, which is not installed: pip install 'petl-vision[tiff]'"
        ) from error
    try:
        return _bands_by_tifffile(tifffile, data)
    except DataError:
        raise
    except Exception as error:  # whatever a codec raises, also where a codec is missing
        return _by_rasterio(data, error)


def _by_rasterio(data: bytes, error: Exception) -> Bands:
    """Returns what rasterio reads of a file that tifffile can't, or raises tifffile's error."""
    try:
        return read_raster(data)
    except Exception as other:
        hint = f"; {other}" if type(other) is DataError else ""
        raise Unreadable(f"it can't be read: {error or type(error).__name__}{hint}") from error


def _pil_reads_all(data: bytes) -> bool:
    """Returns whether PIL reads all bands, bits and masks of a TIFF, by the tags of its first pages."""
    file = io.BytesIO(data)
    tags = tiff_tags(file)
    samples, deepest = int(tags.get(SAMPLES_PER_PIXEL, 1)), max(tags.get(BITS_PER_SAMPLE, (1,)))
    kind = max(tags.get(SAMPLE_FORMAT, (UNSIGNED,)))
    if (deepest, kind) in ((8, SIGNED), (32, UNSIGNED)):  # which PIL takes for others
        return False
    extra, photometric = tags.get(EXTRA_SAMPLES, ()), tags.get(PHOTOMETRIC, 1)
    if NO_DATA in tags or _later_kinds(file, tags) & (MASK | (REDUCED if samples == 1 else 0)):
        return False
    colours = {0: 1, 1: 1, 5: 4}.get(photometric, 3)  # gray, gray, ink; RGB, YCbCr and Lab
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


def _later_kinds(file: BinaryIO, tags: Any) -> int:
    """Returns the bits of the kinds of the pages after the first one: masks, and smaller copies. ``tags`` are then another's."""
    kinds = 0
    for _ in range(PAGES_LOOKED_AT):
        if not tags.next:
            break
        file.seek(tags.next)
        tags.load(file)
        kinds |= int(tags.get(SUBFILE_TYPE, 0))
    return kinds


def _bands_by_tifffile(tifffile: Any, data: bytes) -> Bands:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        series = file.series[0]
        page = series.keyframe
        array = _bands_first(series.asarray(), series.axes)
        mask = next((p.asarray() for p in file.pages[1:] if p.subfiletype == MASK), None)
        tag, bits, photometric = page.tags.get(NO_DATA), page.bitspersample, int(page.photometric)
        extra, palette = [int(kind) for kind in page.extrasamples or ()], page.colormap
    if photometric in LAB:
        raise Unreadable("its colours are Lab; save it as RGB")
    absent = absent_values(array, tag.value if tag else None)
    if mask is not None and mask.shape == array.shape[1:]:
        absent = (absent if absent is not None else False) | np.broadcast_to(mask == 0, array.shape)
    used = bits if isinstance(bits, int) and array.dtype.kind in "iu" and bits < 8 * array.dtype.itemsize else None
    if photometric == PALETTE and palette is not None and len(array) == 1:
        colours = palette[:, array[0]]
        return Bands(colours, absent=None if absent is None else np.broadcast_to(absent, colours.shape))
    if photometric == WHITE_IS_ZERO and array.dtype.kind == "u":
        array = (2**used - 1 if used else np.iinfo(array.dtype).max) - array
    return Bands(array, used, alpha=bool(extra) and extra[-1] in ALPHA_SAMPLES, absent=absent)


def absent_values(array: np.ndarray, text: Any) -> np.ndarray | None:
    """Returns where an array has the value that GDAL writes for "no data"; None where it has it nowhere.

    Example:
        >>> absent_values(np.array([[[-9999.0, 1.0]]], np.float32), "-9999").tolist()
        [[[True, False]]]
    """
    try:
        value = float(text.strip("\0 "))
    except (AttributeError, ValueError):
        return None
    if array.dtype.kind in "iu":
        bounds = np.iinfo(array.dtype)
        absent = array == int(value) if bounds.min <= value <= bounds.max and value == int(value) else None
    else:
        with np.errstate(over="ignore"):
            absent = np.isnan(array) if np.isnan(value) else array == array.dtype.type(value)
    return absent if absent is not None and absent.any() else None


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
