"""Writes the bytes of a file that comes over a network, and judges them while they come: a delta, whole, and nothing more.

The start of a safetensors file says how long the file is. So a page that a server sends in its place is noticed after nine bytes,
and a stream without an end is left where the file should have ended.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
from pathlib import Path
from typing import IO, Any, NoReturn

from petl.addresses.address import Address
from petl.addresses.fetch_errors import Unreachable
from petl.errors import DeltaError, printable
from petl.format.tensorfile import LONGEST_HEADER
from petl.format.texts import parsed_json


class Incoming:
    """The part of a file that has come so far; ``stated`` is the size that the server announced, or None."""

    def __init__(self, address: Address, file: IO[bytes], stated: int | None, folder: Path) -> None:
        self.address, self.file, self.stated, self.folder = address, file, stated, folder
        self.digest, self.received, self.whole = hashlib.sha256(), 0, None if stated is None else stated
        self._start: bytearray | None = bytearray()

    def take(self, chunk: bytes) -> None:
        """Writes a piece of the file.

        Raises:
            DeltaError: this is no safetensors file, or it goes on after its end, or the disk has no room for it.
        """
        self.received += len(chunk)
        self._read_start(chunk)
        if self.whole is not None and self.received > self.whole:
            raise DeltaError(
                f"{self.address} goes on after the {self.whole:,} bytes that it should have; nothing was kept"
            )
        self.digest.update(chunk)
        self.file.write(chunk)

    def finish(self) -> str:
        """Returns the SHA-256 of the whole file.

        Raises:
            Unreachable: bytes are missing.
            DeltaError: the checksum in the address is another one.
        """
        if self._start is not None and self.received == self.stated:
            self._refuse_other_kind()
        if self.whole is None or self.received < self.whole or self._start is not None:
            of = "" if self.whole is None else f" of {self.whole:,}"
            raise Unreachable(f"only {self.received:,}{of} bytes of {self.address} came; nothing was kept: try again")
        found = self.digest.hexdigest()
        refuse_wrong_checksum(self.address, found)
        self.file.flush()
        return found

    def _read_start(self, chunk: bytes) -> None:
        """Collects the header until it is there, and compares its file size with the announced one."""
        start = self._start
        if start is None:
            return
        start += chunk
        if len(start) < 9:
            return
        length = struct.unpack("<Q", start[:8])[0]
        if not 2 <= length <= LONGEST_HEADER or start[8:9] != b"{":
            self._refuse_other_kind()
        if len(start) >= 8 + length:
            self._start = None
            self._expect(8 + length + _end_of_tensors(self.address, bytes(start[8 : 8 + length])))

    def _refuse_other_kind(self) -> NoReturn:
        shown = printable(bytes((self._start or b"")[:30]).decode("ascii", "replace"))
        raise DeltaError(
            f"{self.address} is no safetensors file: it begins with {shown!r}; a page about a file often has a link to the "
            "file itself (raw, download), which is the address to give"
        )

    def _expect(self, size: int) -> None:
        if self.stated is not None and self.stated != size:
            raise Unreachable(
                f"the server announces {self.stated:,} bytes for {self.address}, whose header says {size:,}: it is damaged, or "
                "not whole; nothing was kept"
            )
        self.whole = size
        free = shutil.disk_usage(self.folder).free
        if size - self.received > free:
            raise DeltaError(
                f"{self.address} takes {size:,} bytes, and {self.folder} has room for {free:,}; nothing was kept"
            )


def _end_of_tensors(address: Address, text: bytes) -> int:
    """Returns how many bytes follow the header."""
    try:
        entries: dict[str, Any] = parsed_json(text)
        ends = [int(entry["data_offsets"][1]) for key, entry in entries.items() if key != "__metadata__"]
    except (ArithmeticError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DeltaError(f"{address} is no safetensors file: its header can't be read ({str(error)[:80]})") from None
    return max([0, *ends])


def refuse_wrong_checksum(address: Address, found: str) -> None:
    """Raises a DeltaError where the address asks for another SHA-256 than the file has."""
    if address.sha256 and found != address.sha256:
        raise DeltaError(
            f"{address} has the SHA-256 {found[:16]}..., and the address asks for {address.sha256[:16]}...; it is another "
            "file than the one that was meant, or a changed one"
        )
