"""How large an image file says that it is, before anything is unpacked: a small file may claim more pixels than memory holds."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from PIL import Image

from petl.data.decoding import NUMPY_MAGIC, STUBS
from petl.data.dicoms import MAGIC_AT, is_dicom
from petl.data.reading import Unreadable
from petl.data.tiffs import TIFF_MAGIC

DEFLATED = b"1.2.840.10008.1.2.1.99"  # of DICOMs whose whole text is compressed: its size shows when it is unpacked
BOMB = 2**62  # what PIL refuses on sight


def claimed_values(data: bytes) -> int:
    """Returns how many numbers `petl.data` would unpack from the bytes of an image file: pixels x channels x pages.

    It is 0 where the header can't be read: decoding says why.

    Raises:
        Unreadable: the file is of a kind that only another program reads, or that doesn't say its size.

    >>> file = io.BytesIO()
    >>> Image.new("RGB", (30, 20)).save(file, "png")
    >>> claimed_values(file.getvalue())
    1800
    """
    try:
        if data.startswith(NUMPY_MAGIC):
            return math.prod(_array_shape(io.BytesIO(data)))
        if is_dicom(data[: MAGIC_AT + 4]):
            return _of_dicom(data)
        return max(_of_tiff(data), _of_picture(data)) if data.startswith(TIFF_MAGIC) else _of_picture(data)
    except (Unreadable, MemoryError):
        raise
    except Exception:  # parsers of damaged files raise anything
        return 0


def _array_shape(file: io.BytesIO) -> tuple[int, ...]:
    version = np.lib.format.read_magic(file)
    readers: dict[Any, Any] = {(1, 0): np.lib.format.read_array_header_1_0}
    return readers.get(version, np.lib.format.read_array_header_2_0)(file)[0]


def _of_dicom(data: bytes) -> int:
    import pydicom

    if DEFLATED in data[:4096]:
        raise Unreadable("a DICOM that is compressed as a whole, whose size can't be known before; save it otherwise")
    head = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
    return int(head.Rows) * int(head.Columns) * int(head.get("SamplesPerPixel", 1))


def _of_tiff(data: bytes) -> int:
    """Returns the numbers of the first series of a TIFF, which is what is read; 0 without tifffile."""
    try:
        import tifffile
    except ImportError:
        return 0
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            return math.prod(file.series[0].shape)
    except Exception:  # it isn't whole, or none of tifffile's: PIL may read it
        return 0


def _of_picture(data: bytes) -> int:
    try:
        image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError:
        return BOMB
    if image.format in STUBS:
        raise Unreadable(
            f"an image in the format {image.format}, which only another program reads; save it as PNG or JPEG"
        )
    gray_pages = image.format == "TIFF" and len(image.getbands()) == 1
    pages = getattr(image, "n_frames", 1) if gray_pages else 1
    return image.width * image.height * len(image.getbands()) * pages
