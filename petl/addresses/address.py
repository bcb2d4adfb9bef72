"""What counts as an address, its parts, and how it may be shown: without passwords and signatures."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from petl.errors import DeltaError, printable

SCHEME = re.compile(r"([A-Za-z][\w+.-]+)(?:::[\w+.:-]+)?://")  # two letters or more: C:// is a drive
COLLAPSED = re.compile(r"([A-Za-z][\w+.-]+):/(?!/)")  # what pathlib makes of an address
CHECKSUM = re.compile(r"#(\w+)=([^#]*)$")
LOCAL = ("file", "local")


@dataclass(frozen=True)
class Address:
    """An address without its checksum; ``sha256`` is the checksum that it asks for, or ""."""

    text: str
    sha256: str = ""

    @property
    def scheme(self) -> str:
        match = SCHEME.match(self.text)
        return match[1].lower() if match else ""

    def __str__(self) -> str:
        return shown_address(self.text)

    @property
    def file_name(self) -> str:
        """Returns a name for the file, of plain characters."""
        path = urlsplit(self.text).path if self.scheme in ("http", "https") else self.text
        return re.sub(r"[^\w.-]", "_", unquote(path).rstrip("/").rpartition("/")[2])[-80:] or "delta.safetensors"

    def local_path(self) -> str | None:
        """Returns the path that a ``file://`` address means; None for other addresses.

        Raises:
            DeltaError: it is on another machine.
        """
        if self.scheme not in LOCAL:
            return None
        rest = self.text.partition("://")[2]
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost", ".", "..") and self.text.startswith("file"):
            raise DeltaError(
                f"{self} names the machine {host}; a file here has three slashes: file:///home/me/a.safetensors"
            )
        plain = rest if host not in ("", "localhost") else slash + path
        windows = re.match(r"/[A-Za-z]:", plain)
        plain = plain[1:] if windows and os.name == "nt" else plain
        return plain if os.path.exists(plain) else unquote(plain)


def address_of(path: str | os.PathLike[str]) -> Address | None:
    """Returns the address that a text holds, also one that a Path has taken a slash from; None for a plain path.

    Raises:
        DeltaError: its checksum is none that petl knows.

    >>> address_of("https://example.org/pets.safetensors").scheme, address_of("C:/pets.safetensors")
    ('https', None)
    """
    text = os.fspath(path)
    if not isinstance(text, str):
        return None
    if not isinstance(path, str) and COLLAPSED.match(text) and not os.path.lexists(text):
        text = text.replace(":/", "://", 1)
    if not SCHEME.match(text):
        return None
    match = CHECKSUM.search(text)
    if match is None or match[1].lower() not in hashlib.algorithms_available:
        return Address(text)
    if match[1].lower() != "sha256" or not re.fullmatch(r"[0-9a-fA-F]{64}", match[2]):
        raise DeltaError(
            f"the checksum {printable(match[0])[:80]} of {shown_address(text)} is none that petl checks; expected #sha256= "
            "and 64 hexadecimal digits, as sha256sum prints them"
        )
    return Address(text[: match.start()], match[2].lower())


def shown_address(text: str) -> str:
    """Returns an address to print and to keep: without its password, its query (which may be a signature) and its checksum.

    >>> shown_address("https://me:secret@example.org/pets.safetensors?signature=abc")
    'https://example.org/pets.safetensors'
    """
    text = CHECKSUM.sub("", text)
    if text.lower().startswith(("http:", "https:")):
        text = text.partition("?")[0].partition("#")[0]
    return printable(re.sub(r"://[^/@]*:[^/@]*@", "://", text))
