"""One entry of the feature cache on disk, which is read only if it is bit for bit what was written.

An entry is a folder of two ``.npy`` files, features and targets, and ``about.json``: what the features depend on, their dtype,
and a checksum of each file and of ``about.json`` itself. Whatever has become of the folder, `read_entry` returns what was
written, or None.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from petl.errors import DataError, StateError
from petl.extraction.npy_writer import NpyWriter, memory_mapped

FeatureBatch = tuple[Tensor, Tensor]
ABOUT, FEATURES, TARGETS = ENTRY_FILES = ("about.json", "features.npy", "targets.npy")  # nothing else is ever removed
ENTRY_NAME = re.compile("[0-9a-f]{32}")
# what reading a damaged entry raises
DAMAGE_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, RuntimeError)
CHECKSUM_CHUNK = 1 << 24  # bytes that are read at a time
MAX_ABOUT_BYTES = 1 << 24


def write_entry(
    files: tuple[FileIO, FileIO], text: str, count: int, parts: Iterable[FeatureBatch]
) -> tuple[FeatureBatch, str]:
    """Writes features and labels as they come; returns both, memory-mapped, and the text of ``about.json``.

    Raises:
        StorageError: the disk can't take them. DataError: there are more or fewer than ``count``.
    """
    features, targets = (NpyWriter(file, count) for file in files)
    dtype = ""
    for inputs, labels in parts:
        dtype = str(inputs.dtype).removeprefix("torch.")
        features.add(_as_numpy(inputs))
        targets.add(labels.numpy().astype(np.float32 if labels.is_floating_point() else np.int64))
    if features.rows != count or not count:
        raise DataError(f"the dataset gave {features.rows} images, and its length is {count}")
    about = {"about": text, "dtype": dtype, "sums": [features.checksum, targets.checksum]}
    return (_typed(features.mapped(), dtype), targets.mapped()), json.dumps({**about, "own": _about_checksum(about)})


def read_entry(place: Path, text: str) -> FeatureBatch | None:
    """Returns the features and labels of an entry, memory-mapped; None where there is no entry, or a damaged one."""
    with contextlib.suppress(*DAMAGE_ERRORS), contextlib.ExitStack() as stack:
        about = read_about(place)
        if about is None or about["about"] != text:
            return None
        files = [stack.enter_context(_open_regular(place / name)) for name in (FEATURES, TARGETS)]
        if [_checksum(file) for file in files] != about["sums"]:
            return None
        features, targets = (memory_mapped(file) for file in files)
        return _typed(features, about["dtype"]), targets
    return None


def read_about(place: Path) -> dict[str, Any] | None:
    """Returns the content of an entry's ``about.json``, or None where there is no such file, or petl didn't write it."""
    with contextlib.suppress(*DAMAGE_ERRORS), _open_regular(place / ABOUT) as file:
        about = json.loads(file.read(MAX_ABOUT_BYTES))
        own = about.pop("own")
        return about if own == _about_checksum(about) and isinstance(about["about"], str) else None
    return None


def has_only_entry_files(place: Path) -> bool:
    """Returns whether a folder has nothing in it but files of an entry."""
    with contextlib.suppress(OSError):
        return not place.is_symlink() and all(
            path.name in ENTRY_FILES and stat.S_ISREG(path.lstat().st_mode) for path in place.iterdir()
        )
    return False


def remove_entry(place: Path) -> None:
    """Removes the files of an entry, whatever has become of them, and the folder if nothing else is in it.

    ``about.json`` goes first, so that half an entry is never read.
    """
    for path in (*(place / name for name in ENTRY_FILES), place):
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink() if path != place else None


def move_entry(finished: Path, place: Path) -> None:
    """Moves a finished entry to its place: a new folder, or an existing one, whose other files stay.

    Raises:
        OSError: the entry can't be moved.
    """
    try:
        os.rename(finished, place)
    except OSError:
        (place / ABOUT).unlink(missing_ok=True)
        for name in ENTRY_FILES[::-1]:
            os.replace(finished / name, place / name)


def entry_bytes(place: Path) -> int:
    """Returns how many bytes an entry takes on disk; 0 if it is gone."""
    with contextlib.suppress(OSError):
        return sum((place / name).stat().st_size for name in ENTRY_FILES)
    return 0


@contextlib.contextmanager
def _open_regular(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to read; an OSError if it is no regular file, as reading from a pipe would wait."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is no file")
    with open(path, "rb") as file:
        yield file


def _checksum(file: BinaryIO) -> int:
    """Returns the CRC-32 of the whole file."""
    checksum = 0
    file.seek(0)
    while chunk := file.read(CHECKSUM_CHUNK):
        checksum = zlib.crc32(chunk, checksum)
    return checksum


def _about_checksum(about: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def _typed(stored: Tensor, dtype: str) -> Tensor:
    return stored.view(getattr(torch, dtype))


def _as_numpy(tensor: Tensor) -> np.ndarray:
    """Returns the values as numpy takes them; bfloat16, which numpy doesn't have, as the same bits in int16."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()


def is_entry(place: Path) -> bool:
    """Returns whether a folder is an entry of petl's: its name is the fingerprint of what its ``about.json`` says."""
    about = read_about(place) if ENTRY_NAME.fullmatch(place.name) else None
    return about is not None and entry_name(about["about"]) == place.name


def entry_name(text: str) -> str:
    """Returns the name of the entry whose features depend on what ``text`` says."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def clear(place: Path) -> None:
    """Removes a damaged entry, and nothing else.

    Raises:
        StateError: something that is no folder has its name.
    """
    if os.path.lexists(place) and not place.is_dir():
        raise StateError(
            f"{place} is no folder, and has the name of an entry of the feature cache; move it away, or pass another folder "
            "as cache="
        )
    remove_entry(place)
