"""What petl raises. Every message says what was seen, what was expected and what to do."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

# characters of a message, without the note of what was left out: damaged files can hold any name, other libraries write pages
LONGEST = 1450
ITEM = 100  # characters of one name in a listing
HIDDEN = (
    "Cc",
    "Cf",
    "Cs",
    "Co",
    "Zl",
    "Zp",
)  # Unicode's control, format, surrogate, private and line-breaking characters
JOINERS = "\u200c\u200d"  # format characters that words and emoji need


class PetlError(Exception):
    """Anything that petl refuses to do; the model, files and data are as they were.

    Messages may hold words out of files: what would steer a terminal is spelled out, and long ones are cut.
    """

    def __init__(self, message: object = ""):
        super().__init__(shortened(printable(str(message), keep="\n"), LONGEST))


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


def printable(text: str, *, keep: str = "") -> str:
    """Returns the text with control characters, escape sequences and hidden direction marks spelled out: safe to print.

    Use it for whatever comes out of a file's header or is a file's name. ``keep`` holds characters that may stay.

    >>> print(printable("cat \\x1b[2J"))
    cat \\x1b[2J
    """
    if text.isascii() and text.isprintable():
        return text
    kept = keep + JOINERS
    return "".join(c if c in kept or unicodedata.category(c) not in HIDDEN else _spelled(c) for c in text)


def _spelled(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def shortened(text: str, most: int) -> str:
    """Returns the text, or its first two thirds and its end (what to do), with the number of characters between them.

    >>> shortened("a" * 10_000 + ": what to do", 30)
    'aaaaaaaaaaaaaaaaaaaa... (9,982 characters left out) ...what to do'
    """
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end]}... ({len(text) - most:,} characters left out) ...{text[-end:]}"


def near(name: str, names: Iterable[str], most: int = 3, cutoff: float = 0.4) -> str:
    """Returns a hint such as ``; near names: lora, bias`` for a misspelt ``name``, or nothing."""
    if len(name) > ITEM:  # no misspelling, and the comparison is slow
        return ""
    matches = difflib.get_close_matches(name, list(names), n=most, cutoff=cutoff)
    return f"; near names: {listing(matches, most)}" if matches else ""


def listing(names: Iterable[str], most: int = 5) -> str:
    """Returns ``a, b, c and 4 more``: a long list of names cut for an error message."""
    names = [shortened(printable(str(name)), ITEM) for name in names]
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
