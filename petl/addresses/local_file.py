"""Turns whatever names a delta into the path of a file here: the one place where petl follows an address.

It is called with what the user passes. Nothing that stands in a file comes here.
"""

from __future__ import annotations

import os
from pathlib import Path

from petl.addresses.address import Address, address_of
from petl.addresses.fetched_file import FetchedFile
from petl.addresses.hub_file import hub_file, hub_place
from petl.addresses.incoming import refuse_wrong_checksum
from petl.addresses.kept_copies import file_sha256
from petl.addresses.remote_file import remote_file
from petl.errors import DeltaError


def local_file(path: str | os.PathLike[str]) -> Path:
    """Returns the path of a file here: a path as it is, an address's after its file was fetched into a cache.

    Addresses are ``hf://USER/REPO/FILE.safetensors``, ``https://``, ``s3://``, ``file://``, and whatever else fsspec knows and
    has the package for. ``#sha256=`` and 64 digits at the end ask for that checksum.

    Raises:
        DeltaError: an address that can't be fetched; no cache then holds a part of the file.
    """
    if isinstance(path, FetchedFile):
        return path
    address = address_of(path)
    if address is None:
        return _at_home(Path(path))
    if (plain := address.local_path()) is not None:
        return _checked(address, Path(plain))
    place = hub_place(address)
    file = remote_file(address) if place is None else hub_file(address, place)
    return FetchedFile.at(file, str(address))


def file_to_write(path: str | os.PathLike[str]) -> Path:
    """Returns the path of a file or folder that will be written.

    Raises:
        DeltaError: it is an address; nothing was fetched.
    """
    refuse_address(path)
    return local_file(path)


def refuse_address(path: str | os.PathLike[str]) -> None:
    """Raises a DeltaError where a file would be written to an address."""
    address = address_of(path)
    if address is None or address.local_path() is not None:
        return
    how = "petl.push writes to the hub" if address.scheme == "hf" else "write a file, and copy it there"
    raise DeltaError(f"{address} is an address, and files are written here alone; {how}")


def _at_home(path: Path) -> Path:
    """Returns the path with the home folder in place of a leading ``~``, as shells do it, unless a folder here has that name."""
    return path.expanduser() if path.parts[:1] == ("~",) and not os.path.lexists("~") else path


def _checked(address: Address, path: Path) -> Path:
    if address.sha256 and path.is_file():
        refuse_wrong_checksum(address, file_sha256(path))
    return path
