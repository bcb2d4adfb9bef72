"""Writes a ``.npy`` file row by row, after it has taken all the bytes on the disk that it needs, and maps it into memory."""

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
    """Writes a ``.npy`` file of ``count`` rows, row by row; its bytes on the disk are taken before the first row.

    The file is unbuffered, so closing it can't fail because the disk is full.
    """

    def __init__(self, file: FileIO, count: int):
        self.file, self.count, self.rows, self.checksum = file, count, 0, 0

    def add(self, rows: np.ndarray) -> None:
        """Writes rows [n, ...].

        Raises:
            StorageError: the disk can't take them. DataError: there are more than ``count`` rows.
        """
        if self.rows + len(rows) > self.count:
            raise DataError(f"the dataset gave more than {self.count} images, which is its length")
        with storage_errors():
            if not self.rows:
                self._write_header(rows)
            self._write(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)
        self.rows += len(rows)

    def mapped(self) -> Tensor:
        """Returns the values, memory-mapped; a write to the tensor doesn't reach the file."""
        with storage_errors():
            return memory_mapped(self.file)

    def _write_header(self, rows: np.ndarray) -> None:
        head, shape = io.BytesIO(), (self.count, *rows.shape[1:])
        fields = {"descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(head, fields)
        _allocate(self.file, len(head.getvalue()) + self.count * rows[:1].nbytes)
        self._write(head.getbuffer())

    def _write(self, data: memoryview) -> None:
        self.checksum = zlib.crc32(data, self.checksum)
        while data:  # a write to an unbuffered file may take only some of the bytes
            data = data[self.file.write(data) :]


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Inside, an error of the disk is raised as a StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"the features can't be written ({error.strerror or error}); pass cache= a folder on a disk with more room, or "
            "cache=False"
        ) from error


def _allocate(file: FileIO, size: int) -> None:
    """Takes the bytes on the disk, so that a full disk shows before the features are computed."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (EINVAL, EOPNOTSUPP, ENOSYS):  # file systems without this take the bytes at each write
            raise


def memory_mapped(file: FileIO | BinaryIO) -> Tensor:
    """Returns the array in an open ``.npy`` file, also if the file has been unlinked or replaced since."""
    file.seek(0)
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return torch.from_numpy(np.memmap(file, dtype, mode="c", offset=file.tell(), shape=shape))
