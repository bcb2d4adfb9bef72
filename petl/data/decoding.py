"""Reads an image file: its bytes become a PIL image, an array or bands, with all pixels loaded."""

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

from petl.data.bands import Bands, read_bands
from petl.errors import DataError

STUBS = {"BUFR", "GRIB", "HDF5", "MPEG", "EPS", "WMF", "PDF"}  # PIL knows them, and needs a program more to read them
NUMPY_MAGIC = b"\x93NUMPY"
RawImage = Image.Image | np.ndarray | Bands


def extensions() -> set[str]:
    """The endings of the files that can be read, in lower case: those of PIL, with its plugins, and ``.npy``."""
    Image.init()
    kinds = {name for name in Image.OPEN if name not in STUBS}
    return {ending for ending, kind in Image.registered_extensions().items() if kind in kinds} | {".npy"}


class Unreadable(DataError):
    """The file is damaged, empty or of no known kind."""


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """The file, open to read; a device might never end, and a pipe may have no writer.

    Raises:
        Unreadable: It is no ordinary file.
        OSError: It can't be opened.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))  # a pipe would wait
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        raise Unreadable("it is no ordinary file, and no other is read")
    return os.fdopen(handle, "rb")


def decode(data: bytes) -> RawImage:
    """The picture in a file's bytes, all pixels read: an array for ``.npy``, bands for what PIL would cut, else a PIL image.

    Raises:
        Unreadable: It is damaged, or neither an image that PIL knows nor a ``.npy`` array.
    """
    if not data:
        raise Unreadable("the file is empty")
    with _errors_as_unreadable(data):
        picture = _decoded(data)
    array = picture.array if isinstance(picture, Bands) else picture
    shape = array.shape if isinstance(array, np.ndarray) else array.size
    if not all(shape):
        raise Unreadable(f"it has no pixels: its shape is [{', '.join(map(str, shape))}]")
    return picture


def load_pixels(picture: RawImage) -> RawImage:
    """The picture, all pixels read: readers may hand out PIL images that are opened only.

    Raises:
        Unreadable: It is damaged.
    """
    if isinstance(picture, Image.Image):
        with _errors_as_unreadable():
            picture.load()
    return picture


@contextlib.contextmanager
def _errors_as_unreadable(data: bytes = b"") -> Iterator[None]:
    """Whatever a codec raises is `Unreadable`."""
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable(f"no image that petl can read: it begins with {data[:8]!r}, which PIL doesn't know") from error
    except Exception as error:  # PIL's codecs raise OSError, SyntaxError, struct.error, EOFError and more
        raise Unreadable(f"it can't be read: {error or type(error).__name__}") from error


def _decoded(data: bytes) -> RawImage:
    if data.startswith(NUMPY_MAGIC):
        return np.load(io.BytesIO(data), allow_pickle=False)
    if (bands := read_bands(data)) is not None:
        return bands
    image = Image.open(io.BytesIO(data))
    image.load()
    return image
