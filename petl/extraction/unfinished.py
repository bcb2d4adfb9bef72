"""Folders of entries that are being written: locked while their process lives, and removed by a later run after a kill."""

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
except ImportError:  # Windows: what a killed run left is known by its age there
    fcntl = None
UNFINISHED_PREFIX, TEMPORARY_PREFIX = (
    ".part-",
    "petl-features-",
)  # of names: unfinished entries, folders of a single run
LOCKED_BY_OTHER = -1  # in place of a lock's handle
OLD_SECONDS = 86400.0  # where there are no locks, an unfinished entry of this age was left by a killed run


def last_used(place: Path) -> float:
    """Returns when a file or folder was last changed, in seconds since 1970; 0 if it is gone."""
    with contextlib.suppress(OSError):
        return place.stat().st_mtime
    return 0.0


@contextlib.contextmanager
def locked_folder(folder: Path, prefix: str) -> Iterator[Path]:
    """Makes a new folder in ``folder`` and locks it, so that no other run takes it for what a killed run left."""
    with storage_errors():
        made, lock = _make_locked(folder, prefix)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _make_locked(folder: Path, prefix: str) -> tuple[Path, int | None]:
    while True:
        made = folder / f"{prefix}{secrets.token_hex(4)}"
        made.mkdir(mode=0o700 if prefix == TEMPORARY_PREFIX else 0o777)
        lock = _try_lock(made)
        if lock is None or (lock != LOCKED_BY_OTHER and made.exists()):
            return made, lock
        if lock != LOCKED_BY_OTHER:  # another run has removed the folder between the two steps
            os.close(lock)


def _try_lock(folder: Path) -> int | None:
    """Returns a handle that locks the folder while it is open; LOCKED_BY_OTHER, or None where there are no locks."""
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
    """Removes what killed runs left: unfinished entries that no process has locked."""
    for unfinished in folder.glob(f"{prefix}????????"):
        lock = _try_lock(unfinished) if has_only_entry_files(unfinished) else LOCKED_BY_OTHER
        if lock is None and time.time() - max(map(last_used, (unfinished, *unfinished.iterdir()))) < OLD_SECONDS:
            continue
        if lock != LOCKED_BY_OTHER:
            remove_entry(unfinished)
        if lock is not None and lock != LOCKED_BY_OTHER:
            os.close(lock)
