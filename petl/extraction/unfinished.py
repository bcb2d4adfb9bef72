"""Folders that are being written: locked while their process lives, and swept away after it was killed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from petl.extraction.entry import has_only_entry_files, remove_entry
from petl.extraction.npy_writer import storage_errors

try:
    import fcntl
except ImportError:  # Windows: there, what a killed run left is told by its age
    fcntl = None


UNFINISHED_PREFIX, TEMPORARY_PREFIX = (
    ".part-",
    "petl-features-",
)  # how the names of unfinished entries, and of folders that go with the run, begin
LOCKED_BY_OTHER = -1  # a folder that another process has locked
OLD_SECONDS = 86400.0  # seconds after which an unfinished entry is nobody's, where locks can't tell


def last_used(place: Path) -> float:
    with contextlib.suppress(OSError):
        return place.stat().st_mtime
    return 0.0


@contextlib.contextmanager
def locked_folder(folder: Path, prefix: str) -> Iterator[Path]:
    """A new folder in ``folder``, locked while this process lives, so that nobody takes it for what a killed run left."""
    with storage_errors():
        part, lock = _make_locked(folder, prefix)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _make_locked(folder: Path, prefix: str) -> tuple[Path, int | None]:
    while True:
        part = folder / f"{prefix}{secrets.token_hex(4)}"
        part.mkdir(mode=0o700 if prefix == TEMPORARY_PREFIX else 0o777)
        lock = _try_lock(part)
        if lock is None or (lock != LOCKED_BY_OTHER and part.exists()):
            return part, lock
        if lock != LOCKED_BY_OTHER:  # swept away between the two steps
            os.close(lock)


def _try_lock(folder: Path) -> int | None:
    """A handle that locks the folder while it is open; TAKEN, or None where there are no such locks."""
    if fcntl is None:
        return None
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return LOCKED_BY_OTHER
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle
    except OSError as error:
        os.close(handle)
        return LOCKED_BY_OTHER if isinstance(error, BlockingIOError) else None


def sweep(folder: Path, prefix: str) -> None:
    """Remove what killed runs left: unfinished entries that no process has locked."""
    for part in folder.glob(f"{prefix}????????"):
        lock = _try_lock(part) if has_only_entry_files(part) else LOCKED_BY_OTHER
        if lock is None and time.time() - max(map(last_used, (part, *part.iterdir()))) < OLD_SECONDS:
            continue
        if lock != LOCKED_BY_OTHER:
            remove_entry(part)
        if lock is not None and lock != LOCKED_BY_OTHER:
            os.close(lock)
