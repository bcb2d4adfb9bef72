"""A quick check for image files that can't be read.

The beginning, the end and the size of a file show if it is empty, truncated or no image. A file that looks odd is read whole
before it is called unreadable. Damage in the middle of a file shows only when it is read, see `petl.data.Images`.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from petl.data.bad_files import BAD_FILE
from petl.data.decoding import NUMPY_MAGIC, decode, open_file
from petl.data.dicoms import MAGIC_AT, dicom_is_whole, is_dicom
from petl.data.reading import AS_THE_FILE_SAYS, Reading
from petl.data.tiffs import tiff_tags
from petl.errors import DataError

TAIL_BYTES = 64
STRIPS, TILES = (273, 279), (324, 325)  # TIFF tags: where the parts of the image are, and how long


def why_unreadable(path: str | Path, reading: Reading = AS_THE_FILE_SAYS) -> str:
    """Returns why a file can't be read, or "" if it looks well.

    Raises:
        DataError: a package that reads such files is missing.

    Example:
        >>> why_unreadable("no/such.png")
        'No such file or directory'
    """
    try:
        with open_file(path) as file:
            if _looks_whole(file):
                return ""
            file.seek(0)
            data = file.read()
        decode(data, reading)
    except BAD_FILE as error:
        return str(error)
    except DataError as error:  # not the fault of the file: a missing package
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _looks_whole(file: BinaryIO) -> bool:
    """Returns whether a file begins and ends like a whole image; False for a format without a check."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL_BYTES))
    tail = file.read()
    file.seek(0)
    head = file.read(MAGIC_AT + 4)
    if is_dicom(head):
        with contextlib.suppress(Exception):
            return dicom_is_whole(file, tail, size)
    for magic, is_whole in COMPLETENESS_CHECKS.items():
        if head.startswith(magic):
            file.seek(0)
            with contextlib.suppress(Exception):  # of any kind, from a damaged header: the file is then read whole
                return is_whole(file, head, tail, size)
    return False


def _jpeg_is_whole(file: BinaryIO, head: bytes, tail: bytes, size: int) -> bool:
    return tail.rstrip(b"\0\n\r ").endswith(b"\xff\xd9")


def _png_is_whole(file: BinaryIO, head: bytes, tail: bytes, size: int) -> bool:
    return b"IEND\xaeB`\x82" in tail


def _gif_is_whole(file: BinaryIO, head: bytes, tail: bytes, size: int) -> bool:
    return tail.rstrip(b"\0").endswith(b";")


def _webp_is_whole(file: BinaryIO, head: bytes, tail: bytes, size: int) -> bool:
    return head[8:12] == b"WEBP" and int.from_bytes(head[4:8], "little") + 8 <= size


def _bmp_is_whole(file: BinaryIO, head: bytes, tail: bytes, size: int) -> bool:
    return 54 < int.from_bytes(head[2:6], "little") <= size


def _tiff_is_whole(file: BinaryIO, head: bytes, tail: bytes, size: int) -> bool:
    """Returns whether every part of the first page lies inside of the file."""
    tags = tiff_tags(file)
    starts, counts = next((tags[a], tags[b]) for a, b in (STRIPS, TILES) if a in tags and b in tags)
    pages = tags.next  # type: ignore[attr-defined]  # 0 if there is one page: files of several are read whole
    return not pages and all(start + count <= size for start, count in zip(starts, counts, strict=True))


def _npy_is_whole(file: BinaryIO, head: bytes, tail: bytes, size: int) -> bool:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return not dtype.hasobject and min(shape) > 0 and file.tell() + math.prod(shape) * dtype.itemsize <= size


CompletenessCheck = Callable[[BinaryIO, bytes, bytes, int], bool]
COMPLETENESS_CHECKS: dict[bytes, CompletenessCheck] = {
    b"\xff\xd8\xff": _jpeg_is_whole,
    b"\x89PNG\r\n\x1a\n": _png_is_whole,
    b"GIF8": _gif_is_whole,
    b"RIFF": _webp_is_whole,
    b"BM": _bmp_is_whole,
    b"II*\0": _tiff_is_whole,
    b"MM\0*": _tiff_is_whole,
    NUMPY_MAGIC: _npy_is_whole,
}
