"""What a frozen lower part computes from the training images, on disk: found again only for the same base, data and release.

The name of an entry (`entry.py`) is the fingerprint of all that its values depend on, so a stale one is never found. Entries
appear whole or not at all, whoever else writes to the folder, and what a killed run left is removed by the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from petl.errors import StateError
from petl.extraction.dataset_identity import contents, unsteady, varies
from petl.extraction.entry import (
    ABOUT,
    FEATURES,
    TARGETS,
    Batch,
    NoRoom,
    about_of,
    fill,
    is_plain,
    move,
    no_room,
    read,
    remove,
    size_of,
)

try:
    import fcntl
except ImportError:  # Windows: there, what a killed run left is told by its age
    fcntl = None

__all__ = ["NoRoom", "Store", "contents", "size", "unsteady", "varies"]

GIGA = 10**9
ENTRY = re.compile("[0-9a-f]{32}")  # the names of entries
PART, OWN = (
    ".part-",
    "petl-features-",
)  # how the names of unfinished entries, and of folders that go with the run, begin
TAKEN = -1  # a folder that another process has locked
OLD = 86400.0  # seconds after which an unfinished entry is nobody's, where locks can't tell


class Store:
    """Entries in a folder, of at most ``limit`` bytes together: a folder of the user's, or one that goes with the store.

    Raises:
        NoRoom: there can be no such folder.
    """

    def __init__(self, folder: str | Path | None, limit: float):
        self.kept, self.limit, self.used, self.found = folder is not None, int(limit), 0, 0
        self.mine: set[Path] = set()  # entries that this store has given out
        self._close = contextlib.ExitStack()
        self._finalizer = weakref.finalize(self, self._close.close)
        try:
            self.folder = self._made(folder)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise NoRoom(f"features can't be kept in {_shown(folder)}: {error}") from error

    def _made(self, folder: str | Path | None) -> Path:
        if folder is None:
            place = Path(tempfile.gettempdir())
            _sweep(place, OWN)
            return self._close.enter_context(_part(place, OWN))
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        _sweep(place, PART)
        return place

    def entry(
        self,
        about: dict[str, Any],
        count: int,
        parts: Iterable[Batch],
        *,
        needed: int = 0,
        proof: Callable[[Batch], bool] | None = None,
    ) -> Batch:
        """Features [N, ...] and labels [N], memory-mapped: those kept under ``about``, else those of ``parts``.

        Others may have to go for these, which take about ``needed`` bytes. Kept ones are used only where ``proof`` holds.

        Raises:
            NoRoom: they can't fit. StateError: something that isn't petl's has their name. DataError: they are not ``count``.
        """
        if not self.kept:
            return self._given(_filled(self.folder, "", count, parts, nameless=True)[0])
        place, text = self._place(about)
        found = read(place, text)
        if found is not None and (proof is None or proof(found)):
            self.found += 1
        else:
            _clear(place)
            self.make_room(needed)
            found = self._written(place, text, count, parts)
        with contextlib.suppress(OSError):  # another run may have removed it; what is mapped stays
            os.utime(place)
        self.mine.add(place)
        return self._given(found)

    def forget(self, about: dict[str, Any]) -> None:
        """Don't keep this entry for later runs; for this one it is there."""
        place, _ = self._place(about)
        if self.kept and _is_entry(place):
            remove(place)

    def _place(self, about: dict[str, Any]) -> tuple[Path, str]:
        text = json.dumps(about, sort_keys=True, indent=1, default=str)
        return self.folder / _name(text), text

    def _given(self, found: Batch) -> Batch:
        self.used += size(found[0])
        return found

    def word(self) -> str:
        """What there is, and where."""
        place = self.folder if self.kept else "a temporary folder"
        found = bool(self.found) and self.found == len(self.mine)
        return f"{self.used / 1e6:.1f} MB in {place}{' (found there)' if found else ''}"

    def close(self) -> None:
        """Remove a folder that isn't the user's."""
        self._finalizer()

    def make_room(self, needed: int) -> None:
        """Remove the entries that were used the longest ago, but for the store's own, until ``needed`` bytes fit.

        Raises:
            NoRoom: they can't fit.
        """
        why = self.refusal(needed)
        if why:
            raise NoRoom(f"the features don't fit: {why}")
        sizes = {place: size_of(place) for place in sorted(self._entries(), key=_used_at)}
        for place in list(sizes):
            if sum(sizes.values()) + needed > self.limit and place not in self.mine:
                remove(place)
                del sizes[place]

    def _entries(self) -> list[Path]:
        """The entries of the folder: what has such a name and says itself that it is one."""
        with no_room():
            return [path for path in self.folder.iterdir() if ENTRY.fullmatch(path.name) and _is_entry(path)]

    def refusal(self, needed: int) -> str:
        """Why ``needed`` bytes can't be had, or ""."""
        if needed > self.limit:
            return f"{needed / GIGA:.1f} GB of features are more than cache_limit={self.limit / GIGA:g}"
        with contextlib.suppress(OSError):  # a file system that doesn't say
            free = shutil.disk_usage(self.folder).free
            if needed > free:
                return f"{needed / GIGA:.1f} GB of features, and the disk has {free / GIGA:.1f} GB left"
        return ""

    def _written(self, place: Path, text: str, count: int, parts: Iterable[Batch]) -> Batch:
        """New features, which are this run's whatever becomes of the folder."""
        with _part(self.folder, PART) as part:
            found, about = _filled(part, text, count, parts)
            with no_room():
                (part / ABOUT).write_text(about)
            _publish(part, place, text)
        return found


def size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _shown(folder: Any) -> str:
    return "a temporary folder" if folder is None else repr(str(folder))


def _is_entry(place: Path) -> bool:
    """Whether a folder is one of petl's, by its own word: its name is the fingerprint of what it says it depends on."""
    about = about_of(place)
    return about is not None and _name(about["about"]) == place.name


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _used_at(place: Path) -> float:
    with contextlib.suppress(OSError):
        return place.stat().st_mtime
    return 0.0


def _clear(place: Path) -> None:
    """Make a place free of a damaged entry, and of nothing else.

    Raises:
        StateError: something that is no folder has that name.
    """
    if os.path.lexists(place) and not place.is_dir():
        raise StateError(
            f"{place} is no folder, and has the name of an entry of the feature cache; move it away, or pass another folder "
            "as cache="
        )
    remove(place)


def _filled(
    folder: Path, text: str, count: int, parts: Iterable[Batch], *, nameless: bool = False
) -> tuple[Batch, str]:
    """Features and labels in two files of a folder. Nameless ones are gone when nobody uses them, also after a kill."""
    with contextlib.ExitStack() as stack:
        with no_room():
            opened = [stack.enter_context(open(folder / name, "w+b", buffering=0)) for name in (FEATURES, TARGETS)]
        for name in (FEATURES, TARGETS) if nameless else ():
            with contextlib.suppress(OSError):  # Windows: they go with their folder
                (folder / name).unlink()
        return fill((opened[0], opened[1]), text, count, parts)


def _publish(part: Path, place: Path, text: str) -> None:
    """Give a finished entry its name, unless another run has been faster with the same one, which then stays."""
    if read(place, text) is None:
        with contextlib.suppress(OSError):  # a later run computes it again
            move(part, place)


@contextlib.contextmanager
def _part(folder: Path, prefix: str) -> Iterator[Path]:
    """A new folder in ``folder``, locked while this process lives, so that nobody takes it for what a killed run left."""
    with no_room():
        part, lock = _locked_part(folder, prefix)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked_part(folder: Path, prefix: str) -> tuple[Path, int | None]:
    while True:
        part = folder / f"{prefix}{secrets.token_hex(4)}"
        part.mkdir(mode=0o700 if prefix == OWN else 0o777)
        lock = _lock(part)
        if lock is None or (lock != TAKEN and part.exists()):
            return part, lock
        if lock != TAKEN:  # swept away between the two steps
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """A handle that locks the folder while it is open; TAKEN, or None where there are no such locks."""
    if fcntl is None:
        return None
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return TAKEN
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle
    except OSError as error:
        os.close(handle)
        return TAKEN if isinstance(error, BlockingIOError) else None


def _sweep(folder: Path, prefix: str) -> None:
    """Remove what killed runs left: unfinished entries that no process has locked."""
    for part in folder.glob(f"{prefix}????????"):
        lock = _lock(part) if is_plain(part) else TAKEN
        if lock is None and time.time() - max(map(_used_at, (part, *part.iterdir()))) < OLD:
            continue
        if lock != TAKEN:
            remove(part)
        if lock is not None and lock != TAKEN:
            os.close(lock)
