"""Files that can't be read, found before they cost anything.

A look at a file's beginning, its end and its size tells an empty, truncated or foreign file; what looks odd is read whole
before it is called bad. Damage in the middle of a file shows when it is read, see `petl.data.Images`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from torch.utils.data import Subset

from petl.data.bands import tiff_tags
from petl.data.datasets import BAD, Images
from petl.data.images import NUMPY_MAGIC, decode, opened
from petl.data.origins import class_numbers, origins, place
from petl.errors import DataError, listing, printable

log = logging.getLogger(__name__)
Data = TypeVar("Data")
SHOWN = 100  # names of files in a log
TAIL = 64  # bytes
STRIPS, TILES = (273, 279), (324, 325)  # TIFF tags: where the parts of the picture are, and how long


def sift(dataset: Data, *, training: bool = False, strict: bool = False) -> tuple[Data, dict[str, str]]:
    """The dataset without the files that can't be read, and those with the reason: {file: reason}.

    It looks into petl's own datasets, also inside of `Subset` and `ConcatDataset`; others come back as they are. `petl.fit` and
    `petl.evaluate` call it on what they are given. The files are named in a warning (logger ``petl``).

    Args:
        training: A class of which nothing is left is an error then.
        strict: Every file is read whole, also those that look well, and a bad one is an error.

    Raises:
        DataError: nothing is left, or, with ``strict``, there are bad files.

    Example:
        >>> sift([(0, 0)])
        ([(0, 0)], {})
    """
    mine = any(isinstance(origin, Images) for origin in origins(dataset))
    count = len(dataset) if mine else 0  # type: ignore[arg-type]  # what holds Images has a length
    bad: dict[int, str] = {}
    named: dict[str, str] = {}
    for index in range(count):
        leaf, inner = place(dataset, index)
        if isinstance(leaf, Images) and (why := leaf_flaw(leaf, inner, strict)):
            bad[index] = named[leaf.filename(inner)] = why
    if not bad:
        return dataset, {}
    shown = _shown(named)
    if strict:
        raise DataError(
            f"{len(bad)} of {count} images can't be read: {shown}; mend or remove them, or leave out strict"
        )
    if len(bad) == count:
        raise DataError(f"none of the {count} images can be read: {shown}")
    if training:
        _refuse_lost_class(dataset, bad, shown)
    _say(named, count)
    good = np.setdiff1d(np.arange(count), list(bad))
    whole: Any = dataset
    kept: Any = whole.part(good, training=whole.training) if isinstance(whole, Images) else Subset(whole, good.tolist())
    return kept, named


def _shown(named: dict[str, str]) -> str:
    """The first few files with their reasons, by their names below the folder that they share."""
    folder = os.path.dirname(os.path.commonprefix(list(named)))  # noqa: RUF071  # of letters, then the folder: not all are paths
    below = [(file.removeprefix(folder).lstrip(os.sep), why) for file, why in named.items()]
    return f"{f'in {folder}: ' if folder else ''}{listing(f'{file} ({why})' for file, why in below)}"


def _say(named: dict[str, str], count: int) -> None:
    """Name every file in a line of its own, but no thousands of them."""
    for file, why in list(named.items())[:SHOWN]:
        log.warning("left out %s: %s", printable(file), printable(why))
    more = f", {len(named) - SHOWN} more than named here (petl.data.sift lists all)" if len(named) > SHOWN else ""
    log.warning("%d of %d images can't be read and are left out%s", len(named), count, more)


def _refuse_lost_class(dataset: Any, bad: dict[int, str], shown: str) -> None:
    numbers = class_numbers(dataset)
    if numbers is None:
        return
    lost = sorted({*numbers.tolist()} - {*np.delete(numbers, list(bad)).tolist()})
    if lost:
        names = getattr(place(dataset, 0)[0], "classes", [])
        raise DataError(
            f"no image of class {listing(names[n] if n < len(names) else n for n in lost)} can be read: {shown}"
        )


def leaf_flaw(images: Images, index: int, strict: bool) -> str:
    """Why an image can't be used, or "" for none that shows; nothing but files of their own is looked at unless ``strict``."""
    if strict:
        return images.flaw(index)
    samples = getattr(images.source, "samples", None)
    path = samples[int(images.indices[index])][0] if samples is not None else None
    return flaw(path) if isinstance(path, (str, Path)) else ""  # what is in a tar has a place, no path


def flaw(path: str | Path) -> str:
    """Why a file can't be read, or "" if it looks well.

    Example:
        >>> flaw("no/such.png")
        'No such file or directory'
    """
    try:
        with opened(path) as file:
            if _looks_well(file):
                return ""
            file.seek(0)
            data = file.read()
        decode(data)
    except BAD as error:
        return str(error)
    except DataError:  # such as a package that is missing, which is no fault of the file
        return ""
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _looks_well(file: BinaryIO) -> bool:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL))
    tail = file.read()
    file.seek(0)
    head = file.read(32)
    for magic, whole in WHOLE.items():
        if head.startswith(magic):
            file.seek(0)
            with contextlib.suppress(
                Exception
            ):  # whatever reading a damaged header raises: the file is read whole then
                return whole(file, head, tail, size)
    return False


def _jpeg(file: BinaryIO, head: bytes, tail: bytes, size: int) -> bool:
    return tail.rstrip(b"\0\n\r ").endswith(b"\xff\xd9")


def _png(file: BinaryIO, head: bytes, tail: bytes, size: int) -> bool:
    return b"IEND\xaeB`\x82" in tail


def _gif(file: BinaryIO, head: bytes, tail: bytes, size: int) -> bool:
    return tail.rstrip(b"\0").endswith(b";")


def _riff(file: BinaryIO, head: bytes, tail: bytes, size: int) -> bool:
    return head[8:12] == b"WEBP" and int.from_bytes(head[4:8], "little") + 8 <= size


def _bmp(file: BinaryIO, head: bytes, tail: bytes, size: int) -> bool:
    return 54 < int.from_bytes(head[2:6], "little") <= size


def _tiff(file: BinaryIO, head: bytes, tail: bytes, size: int) -> bool:
    """Whether every part of the first page lies inside of the file."""
    tags = tiff_tags(file)
    starts, counts = next((tags[a], tags[b]) for a, b in (STRIPS, TILES) if a in tags and b in tags)
    pages = tags.next  # type: ignore[attr-defined]  # where the next page is described, 0 for none: those are read whole
    return not pages and all(start + count <= size for start, count in zip(starts, counts, strict=True))


def _npy(file: BinaryIO, head: bytes, tail: bytes, size: int) -> bool:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return not dtype.hasobject and min(shape) > 0 and file.tell() + math.prod(shape) * dtype.itemsize <= size


Look = Callable[[BinaryIO, bytes, bytes, int], bool]
WHOLE: dict[bytes, Look] = {
    b"\xff\xd8\xff": _jpeg,
    b"\x89PNG\r\n\x1a\n": _png,
    b"GIF8": _gif,
    b"RIFF": _riff,
    b"BM": _bmp,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
    NUMPY_MAGIC: _npy,
}
