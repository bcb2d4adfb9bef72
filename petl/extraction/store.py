"""What a frozen lower part computes from the training images, on disk: found again only for the same base, data and release.

The name of an entry (`entry.py`) is the fingerprint of all that its values depend on, so a stale one is never found. Entries
appear whole or not at all, whoever else writes to the folder, and what a killed run left is removed by the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from petl.extraction.entry import (
    ABOUT,
    FEATURES,
    TARGETS,
    FeatureBatch,
    clear,
    entry_bytes,
    entry_name,
    is_entry,
    move_entry,
    read_entry,
    remove_entry,
    write_entry,
)
from petl.extraction.npy_writer import StorageError, storage_errors
from petl.extraction.unfinished import TEMPORARY_PREFIX, UNFINISHED_PREFIX, last_used, locked_folder, sweep

GIGA = 10**9
ENTRY_NAME = re.compile("[0-9a-f]{32}")  # the names of entries


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
            raise StorageError(f"features can't be kept in {_folder_shown(folder)}: {error}") from error

    def _made(self, folder: str | Path | None) -> Path:
        if folder is None:
            place = Path(tempfile.gettempdir())
            sweep(place, TEMPORARY_PREFIX)
            return self._close.enter_context(locked_folder(place, TEMPORARY_PREFIX))
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        sweep(place, UNFINISHED_PREFIX)
        return place

    def entry(
        self,
        about: dict[str, Any],
        count: int,
        parts: Iterable[FeatureBatch],
        *,
        needed: int = 0,
        proof: Callable[[FeatureBatch], bool] | None = None,
    ) -> FeatureBatch:
        """Features [N, ...] and labels [N], memory-mapped: those kept under ``about``, else those of ``parts``.

        Others may have to go for these, which take about ``needed`` bytes. Kept ones are used only where ``proof`` holds.

        Raises:
            NoRoom: they can't fit. StateError: something that isn't petl's has their name. DataError: they are not ``count``.
        """
        if not self.kept:
            return self._given(_fill_files(self.folder, "", count, parts, nameless=True)[0])
        place, text = self._place(about)
        found = read_entry(place, text)
        if found is not None and (proof is None or proof(found)):
            self.found += 1
        else:
            clear(place)
            self.make_room(needed)
            found = self._written(place, text, count, parts)
        with contextlib.suppress(OSError):  # another run may have removed it; what is mapped stays
            os.utime(place)
        self.mine.add(place)
        return self._given(found)

    def forget(self, about: dict[str, Any]) -> None:
        """Don't keep this entry for later runs; for this one it is there."""
        place, _ = self._place(about)
        if self.kept and is_entry(place):
            remove_entry(place)

    def _place(self, about: dict[str, Any]) -> tuple[Path, str]:
        text = json.dumps(about, sort_keys=True, indent=1, default=str)
        return self.folder / entry_name(text), text

    def _given(self, found: FeatureBatch) -> FeatureBatch:
        self.used += tensor_bytes(found[0])
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
            raise StorageError(f"the features don't fit: {why}")
        sizes = {place: entry_bytes(place) for place in sorted(self._entries(), key=last_used)}
        for place in list(sizes):
            if sum(sizes.values()) + needed > self.limit and place not in self.mine:
                remove_entry(place)
                del sizes[place]

    def _entries(self) -> list[Path]:
        """The entries of the folder: what has such a name and says itself that it is one."""
        with storage_errors():
            return [path for path in self.folder.iterdir() if ENTRY_NAME.fullmatch(path.name) and is_entry(path)]

    def refusal(self, needed: int) -> str:
        """Why ``needed`` bytes can't be had, or ""."""
        if needed > self.limit:
            return f"{needed / GIGA:.1f} GB of features are more than cache_limit={self.limit / GIGA:g}"
        with contextlib.suppress(OSError):  # a file system that doesn't say
            free = shutil.disk_usage(self.folder).free
            if needed > free:
                return f"{needed / GIGA:.1f} GB of features, and the disk has {free / GIGA:.1f} GB left"
        return ""

    def _written(self, place: Path, text: str, count: int, parts: Iterable[FeatureBatch]) -> FeatureBatch:
        """New features, which are this run's whatever becomes of the folder."""
        with locked_folder(self.folder, UNFINISHED_PREFIX) as part:
            found, about = _fill_files(part, text, count, parts)
            with storage_errors():
                (part / ABOUT).write_text(about)
            _publish_entry(part, place, text)
        return found


def tensor_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _folder_shown(folder: Any) -> str:
    return "a temporary folder" if folder is None else repr(str(folder))


def _fill_files(
    folder: Path, text: str, count: int, parts: Iterable[FeatureBatch], *, nameless: bool = False
) -> tuple[FeatureBatch, str]:
    """Features and labels in two files of a folder. Nameless ones are gone when nobody uses them, also after a kill."""
    with contextlib.ExitStack() as stack:
        with storage_errors():
            opened = [stack.enter_context(open(folder / name, "w+b", buffering=0)) for name in (FEATURES, TARGETS)]
        for name in (FEATURES, TARGETS) if nameless else ():
            with contextlib.suppress(OSError):  # Windows: they go with their folder
                (folder / name).unlink()
        return write_entry((opened[0], opened[1]), text, count, parts)


def _publish_entry(part: Path, place: Path, text: str) -> None:
    """Give a finished entry its name, unless another run has been faster with the same one, which then stays."""
    if read_entry(place, text) is None:
        with contextlib.suppress(OSError):  # a later run computes it again
            move_entry(part, place)
