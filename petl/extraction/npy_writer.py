"""Writes a ``.npy`` file row after row, all its place on the disk taken first, and maps it into memory."""

from __future__ import annotations

import contextlib
import io
import os
import zlib
from collections.abc import Iterator
from errno import EINVAL, ENOSYS, EOPNOTSUPP
from io import FileIO
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from petl.errors import DataError, StateError


class StorageError(StateError):
    """Features can't be kept: the disk is full or too small, or the folder can't be written to."""


class NpyWriter:
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
        with storage_errors():
            if not self.rows:
                self._begin(rows)
            self._put(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)
        self.rows += len(rows)

    def mapped(self) -> Tensor:
        """The values, memory-mapped; what is written into the tensor doesn't reach the file."""
        with storage_errors():
            return memory_mapped(self.file)

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
def storage_errors() -> Iterator[None]:
    """Inside, what the disk refuses is a NoRoom."""
    try:
        yield
    except OSError as error:
        raise StorageError(
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


def memory_mapped(file: FileIO | BinaryIO) -> Tensor:
    """The array in an open ``.npy`` file: not in one that has come to that path since."""
    file.seek(0)
    np.lib.format.read_magic(file)
    shape, _, kind = np.lib.format.read_array_header_1_0(file)
    return torch.from_numpy(np.memmap(file, kind, mode="c", offset=file.tell(), shape=shape))
