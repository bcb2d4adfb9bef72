"""Decodes image files: the bytes of a file become a PIL image, an array or bands, with all pixels loaded."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from petl.data.bands import PNG_MAGIC, Bands, read_png
from petl.data.dicoms import is_dicom, read_dicom
from petl.data.reading import AS_THE_FILE_SAYS, Reading, Unreadable
from petl.data.tiffs import TIFF_MAGIC, read_tiff, tiff_bands
from petl.errors import DataError

STUBS = {"BUFR", "GRIB", "HDF5", "MPEG", "EPS", "WMF", "PDF"}  # formats that PIL reads only with another program
OWN_SUFFIXES = {".npy", ".dcm", ".dicom"}
NUMPY_MAGIC = b"\x93NUMPY"
RawImage = Image.Image | np.ndarray | Bands


def extensions() -> set[str]:
    """Returns the suffixes of files that can be read, in lower case: PIL's, with its plugins, ``.npy``, and DICOM's."""
    Image.init()
    formats = {name for name in Image.OPEN if name not in STUBS}
    return {suffix for suffix, name in Image.registered_extensions().items() if name in formats} | OWN_SUFFIXES


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a regular file to read. Others are refused: a device might never end, and a pipe may have no writer.

    Raises:
        Unreadable: it is no regular file.
        OSError: it can't be opened.
    """
    handle = os.open(
        path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )  # to open a pipe would wait
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        raise Unreadable("it is no ordinary file, and no other is read")
    return os.fdopen(handle, "rb")


def decode(data: bytes, reading: Reading = AS_THE_FILE_SAYS) -> RawImage:
    """Returns the image in the bytes of a file: an array for ``.npy``, bands for what PIL would read in part, else a PIL image.

    ``reading`` decides what the file leaves open, such as the window of a DICOM.

    Raises:
        Unreadable: the file is damaged, or neither an image that PIL reads nor a ``.npy`` array.
    """
    if not data:
        raise Unreadable("the file is empty")
    with _errors_as_unreadable(data):
        image = _decoded(data, reading)
    array = image.array if isinstance(image, Bands) else image
    shape = array.shape if isinstance(array, np.ndarray) else array.size
    if not all(shape):
        raise Unreadable(f"it has no pixels: its shape is [{', '.join(map(str, shape))}]")
    return image


def load_pixels(image: RawImage) -> RawImage:
    """Returns the image after its pixels are read: a reader may return PIL images that are only opened.

    Raises:
        Unreadable: the file is damaged.
    """
    if isinstance(image, Image.Image):
        with _errors_as_unreadable():
            image.load()
    return image


@contextlib.contextmanager
def _errors_as_unreadable(data: bytes = b"") -> Iterator[None]:
    """Inside, every error of a codec is raised as `Unreadable`."""
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable(f"no image that petl can read: it begins with {data[:8]!r}, which PIL doesn't know") from error
    except Exception as error:  # PIL's codecs raise OSError, SyntaxError, struct.error, EOFError and more
        raise Unreadable(f"it can't be read: {' '.join(str(error).split()) or type(error).__name__}") from error


def _decoded(data: bytes, reading: Reading) -> RawImage:
    if data.startswith(NUMPY_MAGIC):
        return np.load(io.BytesIO(data), allow_pickle=False)
    if is_dicom(data):
        return read_dicom(data, reading)
    if data.startswith(PNG_MAGIC):
        bands = read_png(data)
    else:
        bands = read_tiff(data, reading.tiff) if data.startswith(TIFF_MAGIC) else None
    if bands is not None:
        return bands
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        if data.startswith(TIFF_MAGIC):  # one band of a type that PIL doesn't have, such as float64
            with contextlib.suppress(Exception):
                return tiff_bands(data)
        raise
    image.load()
    return image
