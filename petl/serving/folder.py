"""Looks at a folder of deltas again and again: which files are there, and which have stopped changing."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ENDING = ".safetensors"


class Stamp(NamedTuple):
    """What changes when a file is written to or replaced."""

    size: int
    modified: int
    changed: int
    inode: int
    device: int

    @classmethod
    def of(cls, path: Path) -> Stamp | None:
        """Returns the stamp of a file, or of what a link leads to; None where nothing is there."""
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev)


@dataclass(frozen=True)
class ServedFile:
    """A file as it was seen; ``settled``: it hasn't changed for a while, so that nobody is likely to be writing it."""

    path: Path
    stamp: Stamp
    settled: bool

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(ENDING)


@dataclass
class FolderWatch:
    """Sees files named ``*.safetensors`` in a folder, not in folders below it; names that begin with a dot are left out.

    ``settle_s``: seconds for which a file has to stay as it is. A copy that rests for longer has a checksum that doesn't fit.
    """

    folder: Path
    settle_s: float
    _since: dict[str, tuple[Stamp, float]] = field(default_factory=dict)

    def look(self) -> dict[str, ServedFile]:
        """Returns the files that are there now, by name, in the order of their names.

        Raises:
            OSError: the folder can't be read.
        """
        names = sorted(name for name in os.listdir(self.folder) if name.endswith(ENDING) and not name.startswith("."))
        stamps = {name: stamp for name in names if (stamp := Stamp.of(self.folder / name)) is not None}
        self._since = {name: self._first_seen(name, stamp) for name, stamp in stamps.items()}
        now = time.monotonic()
        return {
            name: ServedFile(self.folder / name, stamp, now - since >= self.settle_s)
            for name, (stamp, since) in self._since.items()
            if not (self.folder / name).is_dir()
        }

    def _first_seen(self, name: str, stamp: Stamp) -> tuple[Stamp, float]:
        """Returns the stamp, with the time since which it is known; that of a file new to us is what the file says."""
        before = self._since.get(name)
        if before is not None and before[0] == stamp:
            return before
        age = time.time() - max(stamp.modified, stamp.changed) / 1e9 if before is None else 0.0
        return stamp, time.monotonic() - max(age, 0.0)
