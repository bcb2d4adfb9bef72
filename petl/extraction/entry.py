"""One entry of the feature cache on disk: written without holes, and read only where it is, bit for bit, what was written.

An entry is a folder of two ``.npy`` files, features and targets, and ``about.json``: what the values depend on, their type, and
a checksum of each file and of ``about.json`` itself. Whatever has become of such a folder, `read` gives what was written or None.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from errno import EINVAL, ENOSYS, EOPNOTSUPP
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from petl.errors import DataError, StateError

Batch = tuple[Tensor, Tensor]
ABOUT, FEATURES, TARGETS = FILES = ("about.json", "features.npy", "targets.npy")  # nothing else is ever removed
DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    RuntimeError,
)  # what reading may meet
CHUNK = 1 << 24  # bytes that are checked at a time
MOST = 1 << 24  # bytes of about.json


class NoRoom(StateError):
    """Features can't be kept: the disk is full or too small, or the folder can't be written to."""


class Sheet:
    """A ``.npy`` file of ``count`` rows, written row after row; all its place on the disk is taken before the first.

    The file is unbuffered: closing it can't fail for want of room.
    """

    def __init__(self, file: FileIO, count: int):
        self.file, self.count, self.rows, self.checksum = file, count, 0, 0

    def add(self, rows: np.ndarray) -> None:
        """Write some rows [n, ...].

        Raises:
            NoRoom: the disk can't take them. DataError: there are more rows than were said.
        """
        if self.rows + len(rows) > self.count:
            raise DataError(f"the dataset gave more than {self.count} images, which is its length")
        with no_room():
            if not self.rows:
                self._begin(rows)
            self._put(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)
        self.rows += len(rows)

    def mapped(self) -> Tensor:
        """The values, memory-mapped; what is written into the tensor doesn't reach the file."""
        with no_room():
            return _mapped(self.file)

    def _begin(self, rows: np.ndarray) -> None:
        head, shape = io.BytesIO(), (self.count, *rows.shape[1:])
        fields = {"descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(head, fields)
        _allocate(self.file, len(head.getvalue()) + self.count * rows[:1].nbytes)
        self._put(head.getbuffer())

    def _put(self, data: memoryview) -> None:
        self.checksum = zlib.crc32(data, self.checksum)
        while data:  # an unbuffered file may take a part
            data = data[self.file.write(data) :]


@contextlib.contextmanager
def no_room() -> Iterator[None]:
    """Inside, what the disk refuses is a NoRoom."""
    try:
        yield
    except OSError as error:
        raise NoRoom(
            f"the features can't be written ({error.strerror or error}); pass cache= a folder on a disk with more room, or "
            "cache=False"
        ) from error


def _allocate(file: FileIO, size: int) -> None:
    """Take the bytes of the disk now, so that a disk without room for them is found before they are computed."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (
            EINVAL,
            EOPNOTSUPP,
            ENOSYS,
        ):  # of a file system that can't; there, each write takes its own
            raise


def fill(files: tuple[FileIO, FileIO], text: str, count: int, parts: Iterable[Batch]) -> tuple[Batch, str]:
    """Write features and labels as they come; the two, memory-mapped, and what goes into ``about.json``.

    Raises:
        NoRoom: the disk can't take them. DataError: they are another number than ``count``.
    """
    features, targets = (Sheet(file, count) for file in files)
    kind = ""
    for found, labels in parts:
        kind = str(found.dtype).removeprefix("torch.")
        features.add(_raw(found))
        targets.add(labels.numpy().astype(np.int64))
    if features.rows != count or not count:
        raise DataError(f"the dataset gave {features.rows} images, and its length is {count}")
    about = {"about": text, "dtype": kind, "sums": [features.checksum, targets.checksum]}
    return (_typed(features.mapped(), kind), targets.mapped()), json.dumps({**about, "own": _own_sum(about)})


def read(place: Path, text: str) -> Batch | None:
    """The entry's features and labels, memory-mapped, or None where there is none, or none that is what was written."""
    with contextlib.suppress(*DAMAGE), contextlib.ExitStack() as stack:
        about = about_of(place)
        if about is None or about["about"] != text:
            return None
        files = [stack.enter_context(_opened(place / name)) for name in (FEATURES, TARGETS)]
        if [_checksum(file) for file in files] != about["sums"]:
            return None
        features, targets = (_mapped(file) for file in files)
        return _typed(features, about["dtype"]), targets
    return None


def about_of(place: Path) -> dict[str, Any] | None:
    """What ``about.json`` of an entry says, or None where there is no such file as petl writes."""
    with contextlib.suppress(*DAMAGE), _opened(place / ABOUT) as file:
        about = json.loads(file.read(MOST))
        own = about.pop("own")
        return about if own == _own_sum(about) and isinstance(about["about"], str) else None
    return None


def is_plain(place: Path) -> bool:
    """Whether this is a folder with nothing in it but files that entries have."""
    with contextlib.suppress(OSError):
        return not place.is_symlink() and all(
            path.name in FILES and stat.S_ISREG(path.lstat().st_mode) for path in place.iterdir()
        )
    return False


def remove(place: Path) -> None:
    """Remove an entry's files, whatever has become of them, and the folder if nothing else is in it.

    ``about.json`` goes first, so that no reader takes half an entry for one.
    """
    for path in (*(place / name for name in FILES), place):
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink() if path != place else None


def move(part: Path, place: Path) -> None:
    """Give a finished entry its place: a new folder, or one that is there already, whose other files stay.

    Raises:
        OSError: it can't be.
    """
    try:
        os.rename(part, place)
    except OSError:
        (place / ABOUT).unlink(missing_ok=True)
        for name in FILES[::-1]:
            os.replace(part / name, place / name)


def size_of(place: Path) -> int:
    """Bytes of an entry on disk; 0 where it has gone."""
    with contextlib.suppress(OSError):
        return sum((place / name).stat().st_size for name in FILES)
    return 0


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file to read; an OSError where it isn't one: a pipe would be waited for."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is no file")
    with open(path, "rb") as file:
        yield file


def _checksum(file: BinaryIO) -> int:
    """CRC-32 of the whole file."""
    found = 0
    file.seek(0)
    while chunk := file.read(CHUNK):
        found = zlib.crc32(chunk, found)
    return found


def _own_sum(about: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def _mapped(file: FileIO | BinaryIO) -> Tensor:
    """The array in an open ``.npy`` file: not in one that has come to that path since."""
    file.seek(0)
    np.lib.format.read_magic(file)
    shape, _, kind = np.lib.format.read_array_header_1_0(file)
    return torch.from_numpy(np.memmap(file, kind, mode="c", offset=file.tell(), shape=shape))


def _typed(raw: Tensor, kind: str) -> Tensor:
    return raw.view(getattr(torch, kind))


def _raw(tensor: Tensor) -> np.ndarray:
    """The bits of a tensor as numpy knows them; it has no bfloat16."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()
