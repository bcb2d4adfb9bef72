"""What petl raises. Every message says what was seen, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from petl.tables import clean, shortened

MOST = 2000  # characters of a message: what other libraries say is quoted, and can be pages
ITEM = 100  # characters of one name in a listing


class PetlError(Exception):
    """Anything that petl refuses to do; the model, files and data are as they were."""

    def __str__(self) -> str:
        """The message without what a terminal would obey (names in it come from files), and not without end."""
        return shortened(clean(super().__str__(), keep="\n"), MOST)


class MethodError(PetlError):
    """An unknown method, an unknown option, or a value that an option can't have."""


class SiteError(PetlError):
    """A method can't be put where it was asked to go."""


class StateError(PetlError):
    """The model is not in the state that the call needs (not wrapped, wrapped twice, moved tensors ...)."""


class DeltaError(PetlError):
    """A delta file can't be written, read or applied."""


class DataError(PetlError):
    """The training or test data doesn't fit the model or can't be read."""


def near(name: str, names: Iterable[str], most: int = 3) -> str:
    """A hint such as ``; near names: lora, bias`` for a misspelt ``name``, or nothing."""
    if len(name) > ITEM:  # no misspelling, and the comparison is slow
        return ""
    found = difflib.get_close_matches(name, list(names), n=most, cutoff=0.4)
    return f"; near names: {listing(found, most)}" if found else ""


def listing(names: Iterable[str], most: int = 5) -> str:
    """``a, b, c and 4 more``: a long list of names cut for an error message."""
    names = [shortened(clean(name), ITEM) for name in names]
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
