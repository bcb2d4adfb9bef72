"""The path of a file that was fetched, which knows its address."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from petl.errors import DeltaError

_Path = Path if TYPE_CHECKING else type(Path())  # Python before 3.12 derives from the system's own class alone


class FetchedFile(_Path):
    """The path of a whole file in a cache. Messages show the address that it came from; opening it opens the file.

    A path that is made from it (``path.parent``) is of the cache, and shown as that.
    """

    address: str | None = None

    @classmethod
    def at(cls, path: str | Path, address: str) -> FetchedFile:
        """Returns the path of a file that came from this address."""
        file = cls(path)
        file.address = address
        return file

    def __fspath__(self) -> str:
        return super().__str__()

    def __str__(self) -> str:
        return self.address or super().__str__()

    def __repr__(self) -> str:
        return f"FetchedFile({str(self)!r})"


def refuse_fetched(path: Path, what: str) -> None:
    """Raises a DeltaError where ``what`` would be written into a file that came from an address."""
    if isinstance(path, FetchedFile) and path.address:
        raise DeltaError(f"{what} is written into the file, and {path} is an address; save a copy, and name that")


def name_to_load(path: Path) -> str:
    """Returns what another person passes to ``petl.load``: the address of a fetched file, else the file's name."""
    return str(path) if isinstance(path, FetchedFile) and path.address else path.name
