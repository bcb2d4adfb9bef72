"""The feature cache: a folder of entries, each of which is reused only for the same backbone, images and releases.

An entry (`entry.py`) is named by the fingerprint of all that its features depend on, so stale features are never used. Entries
appear whole or not at all, whoever else writes to the folder, and what a killed run left is removed by the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
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
    read_about,
    read_entry,
    remove_entry,
    write_entry,
)
from petl.extraction.npy_writer import StorageError, storage_errors
from petl.extraction.reasons import NoRoom
from petl.extraction.unfinished import TEMPORARY_PREFIX, UNFINISHED_PREFIX, last_used, locked_folder, sweep

GIGA = 10**9


class Store:
    """Entries in a folder of the user's or, for None, in a temporary one; at most ``limit`` bytes together.

    Raises:
        StorageError: the folder can't be made or read.
    """

    def __init__(self, folder: str | Path | None, limit: float):
        self.persistent, self.limit, self.bytes_used, self.reused = folder is not None, int(limit), 0, 0
        self.in_use: set[Path] = set()  # entries that this run trains on
        self._close = contextlib.ExitStack()
        self._finalizer = weakref.finalize(self, self._close.close)
        try:
            self.folder = self._opened_folder(folder)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise StorageError(f"features can't be kept in {_folder_name(folder)}: {error}") from error

    def _opened_folder(self, folder: str | Path | None) -> Path:
        if folder is None:
            place = Path(tempfile.gettempdir())
            sweep(place, TEMPORARY_PREFIX)
            return self._close.enter_context(locked_folder(place, TEMPORARY_PREFIX))
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        sweep(place, UNFINISHED_PREFIX)
        return place

    def get_or_compute(
        self,
        about: dict[str, Any],
        count: int,
        parts: Iterable[FeatureBatch],
        *,
        needed: int = 0,
        is_valid: Callable[[FeatureBatch], bool] | None = None,
    ) -> FeatureBatch:
        """Returns features [N, ...] and labels [N], memory-mapped: those stored for ``about``, else those of ``parts``.

        Args:
            about: All that the features depend on, as JSON values.
            count: The number of images N.
            parts: Computes the features and labels, batch by batch; read only if nothing is stored.
            needed: About how many bytes the features take. Other entries are removed for them.
            is_valid: Whether stored features may be used; None for always.

        Raises:
            StorageError: the features don't fit. StateError: something that isn't petl's is in their place. DataError: ``parts``
                gave another number of images than ``count``.
        """
        if not self.persistent:
            batch, _ = _fill_files(self.folder, "", count, parts, unlinked=True)
        else:
            place, text = self._place(about)
            stored = read_entry(place, text)
            if stored is not None and (is_valid is None or is_valid(stored)):
                batch = stored
                self.reused += 1
            else:
                clear(place)
                self.evict(needed)
                batch = self._write(place, text, count, parts)
            with contextlib.suppress(OSError):  # another run may have removed the entry; what is mapped stays
                os.utime(place)
            self.in_use.add(place)
        self.bytes_used += tensor_bytes(batch[0])
        return batch

    def get(self, about: dict[str, Any]) -> FeatureBatch | None:
        """Returns what is stored for ``about``, memory-mapped, or None; it counts as used now."""
        place, text = self._place(about)
        stored = read_entry(place, text) if self.persistent else None
        if stored is not None:
            self.in_use.add(place)
            with contextlib.suppress(OSError):
                os.utime(place)
        return stored

    def described(self) -> Iterator[dict[str, Any]]:
        """Yields what the features of each entry depend on."""
        for place in self._entries():
            about = read_about(place)
            if about is not None:  # it may have been removed meanwhile
                yield json.loads(about["about"])

    def forget(self, about: dict[str, Any]) -> None:
        """Removes an entry, so that later runs don't use it; what this run has mapped stays."""
        place, _ = self._place(about)
        if self.persistent and is_entry(place):
            remove_entry(place)

    def _place(self, about: dict[str, Any]) -> tuple[Path, str]:
        text = json.dumps(about, sort_keys=True, indent=1, default=str)
        return self.folder / entry_name(text), text

    def describe(self) -> str:
        """Returns the size of the features of this run, where they are, and whether they were there before."""
        place = self.folder if self.persistent else "a temporary folder"
        all_reused = bool(self.reused) and self.reused == len(self.in_use)
        return f"{self.bytes_used / 1e6:.1f} MB in {place}{' (found there)' if all_reused else ''}"

    def close(self) -> None:
        """Removes the folder if it is a temporary one."""
        self._finalizer()

    def evict(self, needed: int) -> None:
        """Removes the entries that were used the longest ago, except those of this run, until ``needed`` bytes fit.

        Raises:
            StorageError: they can't fit.
        """
        if why := self.why_no_room(needed):
            raise StorageError(f"the features don't fit: {why}")
        sizes = {place: entry_bytes(place) for place in sorted(self._entries(), key=last_used)}
        for place in list(sizes):
            if sum(sizes.values()) + needed > self.limit and place not in self.in_use:
                remove_entry(place)
                del sizes[place]

    def _entries(self) -> list[Path]:
        with storage_errors():
            return [path for path in self.folder.iterdir() if is_entry(path)]

    def why_no_room(self, needed: int) -> NoRoom | None:
        """Returns why ``needed`` bytes can't be had, or None."""
        if needed > self.limit:
            return NoRoom(f"{needed / GIGA:.1f} GB of features are more than cache_limit={self.limit / GIGA:g}")
        with contextlib.suppress(OSError):  # of a file system that doesn't tell its free bytes
            free = shutil.disk_usage(self.folder).free
            if needed > free:
                return NoRoom(f"{needed / GIGA:.1f} GB of features, and the disk has {free / GIGA:.1f} GB left")
        return None

    def _write(self, place: Path, text: str, count: int, parts: Iterable[FeatureBatch]) -> FeatureBatch:
        """Computes and stores features; their files stay open to this run even if the entry is removed."""
        with locked_folder(self.folder, UNFINISHED_PREFIX) as unfinished:
            batch, about = _fill_files(unfinished, text, count, parts)
            with storage_errors():
                (unfinished / ABOUT).write_text(about)
            _publish(unfinished, place, text)
        return batch


def tensor_bytes(tensor: Tensor) -> int:
    """Returns the bytes that the values of a tensor take."""
    return tensor.numel() * tensor.element_size()


def _folder_name(folder: Any) -> str:
    return "a temporary folder" if folder is None else repr(str(folder))


def _fill_files(
    folder: Path, text: str, count: int, parts: Iterable[FeatureBatch], *, unlinked: bool = False
) -> tuple[FeatureBatch, str]:
    """Writes features and labels into two files of a folder. Unlinked files are gone with this process, also after a kill."""
    with contextlib.ExitStack() as stack:
        with storage_errors():
            opened = [stack.enter_context(open(folder / name, "w+b", buffering=0)) for name in (FEATURES, TARGETS)]
        for name in (FEATURES, TARGETS) if unlinked else ():
            with contextlib.suppress(OSError):  # Windows: they go with their folder
                (folder / name).unlink()
        return write_entry((opened[0], opened[1]), text, count, parts)


def _publish(finished: Path, place: Path, text: str) -> None:
    """Gives a finished entry its name, unless another run was faster with the same one, which then stays."""
    if read_entry(place, text) is None:
        with contextlib.suppress(OSError):  # a later run computes it again
            move_entry(finished, place)
