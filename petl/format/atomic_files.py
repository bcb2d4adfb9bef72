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
    """A new file, open for writing, that takes the place of ``path`` when the block ends without an error."""
    try:
        target, old = _target(path)
        part = (
            target.parent / f".petl-{secrets.token_hex(8)}.part"
        )  # short: with a suffix the file's own name may be too long
        try:
            with open(part, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if old is not None:
                _like(part, old)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        _flush_folder(target.parent)
    except (OSError, ValueError) as error:
        raise DeltaError(f"can't write {short_path(path)}: {reason(error)}") from error


def _target(path: Path) -> tuple[Path, os.stat_result | None]:
    """The file to replace, links followed, and what it is now."""
    try:
        target = path.resolve()
    except RuntimeError as error:  # Python before 3.13 says so of a circle of links
        raise OSError(str(error)) from None
    if not target.parent.is_dir():
        raise DeltaError(f"can't write {path}: {target.parent} is not a folder; make it first")
    try:
        old = target.stat()
    except FileNotFoundError:
        return target, None
    if not stat.S_ISREG(old.st_mode):
        raise DeltaError(f"can't write {path}: it is there and no plain file; give another path")
    return target, old


def _like(part: Path, old: os.stat_result) -> None:
    """The permissions, and where it is allowed the owner, of the file that is replaced."""
    if hasattr(os, "chown") and os.geteuid() == 0:
        with contextlib.suppress(OSError):
            os.chown(part, old.st_uid, old.st_gid)
    os.chmod(part, stat.S_IMODE(old.st_mode))


def _flush_folder(folder: Path) -> None:
    """Make the new name last too, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def reason(error: Exception) -> str:
    """The error without the path, which may be as long as it likes."""
    return error.strerror or str(error)[:200] if isinstance(error, OSError) else str(error)[:200]


def short_path(path: Path) -> str:
    text = str(path)
    return text if len(text) < 300 else f"{text[:120]} ... {text[-60:]}"
