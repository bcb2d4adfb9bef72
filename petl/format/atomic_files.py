"""Writes files atomically: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from petl.errors import DeltaError


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[IO[bytes]]:
    """A context that opens a new file for writing; the file replaces ``path`` when the block ends without an error."""
    try:
        target, replaced = _target(path)
        # a short name: the name of the target with a suffix may be longer than the file system allows
        part = target.parent / f".petl-{secrets.token_hex(8)}.part"
        try:
            with open(part, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if replaced is not None:
                _like(part, replaced)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        _flush_folder(target.parent)
    except (OSError, ValueError) as error:
        raise DeltaError(f"can't write {short_path(path)}: {reason(error)}") from error


def _target(path: Path) -> tuple[Path, os.stat_result | None]:
    """Returns the path of the file to write, links followed, and the status of the existing file, or None."""
    try:
        target = path.resolve()
    except RuntimeError as error:  # raised by Python before 3.13 for a circle of links
        raise OSError(str(error)) from None
    if not target.parent.is_dir():
        raise DeltaError(f"can't write {path}: {target.parent} is not a folder; make it first")
    try:
        replaced = target.stat()
    except FileNotFoundError:
        return target, None
    if not stat.S_ISREG(replaced.st_mode):
        raise DeltaError(f"can't write {path}: it is there and no plain file; give another path")
    return target, replaced


def _like(part: Path, replaced: os.stat_result) -> None:
    """Sets the permissions, and where the system allows it the owner, to those of the file that is replaced."""
    if hasattr(os, "chown") and os.geteuid() == 0:
        with contextlib.suppress(OSError):
            os.chown(part, replaced.st_uid, replaced.st_gid)
    os.chmod(part, stat.S_IMODE(replaced.st_mode))


def _flush_folder(folder: Path) -> None:
    """Flushes the folder to disk, so that the new name survives a crash too, where the system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def reason(error: Exception) -> str:
    """Returns the text of an error without the path, which can be very long."""
    return error.strerror or str(error)[:200] if isinstance(error, OSError) else str(error)[:200]


def short_path(path: Path) -> str:
    """Returns the path as text, with the middle left out where it is long."""
    text = str(path)
    return text if len(text) < 300 else f"{text[:120]} ... {text[-60:]}"
