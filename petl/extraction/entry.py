"""One entry of the feature cache on disk: written without holes, and read only where it is, bit for bit, what was written.

An entry is a folder of two ``.npy`` files, features and targets, and ``about.json``: what the values depend on, their type, and
a checksum of each file and of ``about.json`` itself. Whatever has become of such a folder, `read` gives what was written or None.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
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
DAMAGE_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    RuntimeError,
)  # what reading may meet
CHECKSUM_CHUNK = 1 << 24  # bytes that are checked at a time
MAX_ABOUT_BYTES = 1 << 24  # bytes of about.json


def write_entry(
    files: tuple[FileIO, FileIO], text: str, count: int, parts: Iterable[FeatureBatch]
) -> tuple[FeatureBatch, str]:
    """Write features and labels as they come; the two, memory-mapped, and what goes into ``about.json``.

    Raises:
        NoRoom: the disk can't take them. DataError: they are another number than ``count``.
    """
    features, targets = (NpyWriter(file, count) for file in files)
    kind = ""
    for found, labels in parts:
        kind = str(found.dtype).removeprefix("torch.")
        features.add(_raw(found))
        targets.add(labels.numpy().astype(np.int64))
    if features.rows != count or not count:
        raise DataError(f"the dataset gave {features.rows} images, and its length is {count}")
    about = {"about": text, "dtype": kind, "sums": [features.checksum, targets.checksum]}
    return (_typed(features.mapped(), kind), targets.mapped()), json.dumps({**about, "own": _about_checksum(about)})


def read_entry(place: Path, text: str) -> FeatureBatch | None:
    """The entry's features and labels, memory-mapped, or None where there is none, or none that is what was written."""
    with contextlib.suppress(*DAMAGE_ERRORS), contextlib.ExitStack() as stack:
        about = read_about(place)
        if about is None or about["about"] != text:
            return None
        files = [stack.enter_context(_opened_file(place / name)) for name in (FEATURES, TARGETS)]
        if [_checksum(file) for file in files] != about["sums"]:
            return None
        features, targets = (memory_mapped(file) for file in files)
        return _typed(features, about["dtype"]), targets
    return None


def read_about(place: Path) -> dict[str, Any] | None:
    """What ``about.json`` of an entry says, or None where there is no such file as petl writes."""
    with contextlib.suppress(*DAMAGE_ERRORS), _opened_file(place / ABOUT) as file:
        about = json.loads(file.read(MAX_ABOUT_BYTES))
        own = about.pop("own")
        return about if own == _about_checksum(about) and isinstance(about["about"], str) else None
    return None


def has_only_entry_files(place: Path) -> bool:
    """Whether this is a folder with nothing in it but files that entries have."""
    with contextlib.suppress(OSError):
        return not place.is_symlink() and all(
            path.name in ENTRY_FILES and stat.S_ISREG(path.lstat().st_mode) for path in place.iterdir()
        )
    return False


def remove_entry(place: Path) -> None:
    """Remove an entry's files, whatever has become of them, and the folder if nothing else is in it.

    ``about.json`` goes first, so that no reader takes half an entry for one.
    """
    for path in (*(place / name for name in ENTRY_FILES), place):
        with contextlib.suppress(OSError):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink() if path != place else None


def move_entry(part: Path, place: Path) -> None:
    """Give a finished entry its place: a new folder, or one that is there already, whose other files stay.

    Raises:
        OSError: it can't be.
    """
    try:
        os.rename(part, place)
    except OSError:
        (place / ABOUT).unlink(missing_ok=True)
        for name in ENTRY_FILES[::-1]:
            os.replace(part / name, place / name)


def entry_bytes(place: Path) -> int:
    """Bytes of an entry on disk; 0 where it has gone."""
    with contextlib.suppress(OSError):
        return sum((place / name).stat().st_size for name in ENTRY_FILES)
    return 0


@contextlib.contextmanager
def _opened_file(path: Path) -> Iterator[BinaryIO]:
    """A file to read; an OSError where it isn't one: a pipe would be waited for."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path} is no file")
    with open(path, "rb") as file:
        yield file


def _checksum(file: BinaryIO) -> int:
    """CRC-32 of the whole file."""
    found = 0
    file.seek(0)
    while chunk := file.read(CHECKSUM_CHUNK):
        found = zlib.crc32(chunk, found)
    return found


def _about_checksum(about: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(about, sort_keys=True).encode())


def _typed(raw: Tensor, kind: str) -> Tensor:
    return raw.view(getattr(torch, kind))


def _raw(tensor: Tensor) -> np.ndarray:
    """The bits of a tensor as numpy knows them; it has no bfloat16."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()


def is_entry(place: Path) -> bool:
    """Whether a folder is one of petl's, by its own word: its name is the fingerprint of what it says it depends on."""
    about = read_about(place)
    return about is not None and entry_name(about["about"]) == place.name


def entry_name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def clear(place: Path) -> None:
    """Make a place free of a damaged entry, and of nothing else.

    Raises:
        StateError: something that is no folder has that name.
    """
    if os.path.lexists(place) and not place.is_dir():
        raise StateError(
            f"{place} is no folder, and has the name of an entry of the feature cache; move it away, or pass another folder "
            "as cache="
        )
    remove_entry(place)
