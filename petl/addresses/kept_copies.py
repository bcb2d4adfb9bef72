"""Copies of fetched files, in huggingface_hub's folder for the assets of libraries (``HF_ASSETS_CACHE``, or in ``HF_HOME``).

fsspec has caches too, but not for this (fsspec 2026.9): where a connection breaks off, they leave the beginning of a file in the
file's place, and take it for the file afterwards, and they never ask a web server whether a page has changed. Here a copy
appears whole, by a rename, with what tells a newer version apart (``tag``) and its SHA-256, which is compared on each use.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from petl.addresses.address import Address
from petl.addresses.fetch_errors import disk_fault
from petl.errors import DeltaError

ABOUT_COPY = "about.json"


@dataclass(frozen=True)
class KeptCopy:
    """A whole copy: its file, what its server said of its version, and when it was fetched."""

    file: Path
    tag: Mapping[str, str]
    sha256: str
    fetched: float

    @property
    def date(self) -> str:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(self.fetched))


def folder_of(address: Address) -> Path:
    """Returns the folder of an address's copies, which may not be there yet."""
    from huggingface_hub import constants

    return (
        Path(constants.HF_ASSETS_CACHE) / "petl" / "addresses" / hashlib.sha256(address.text.encode()).hexdigest()[:32]
    )


def kept_copy(address: Address) -> KeptCopy | None:
    """Returns the copy of an address, or None where there is none, or it isn't as it was when it came."""
    folder = folder_of(address)
    try:
        about = json.loads((folder / ABOUT_COPY).read_text(encoding="utf-8"))
        file = folder / about["sha256"] / address.file_name
        found = KeptCopy(file, dict(about["tag"]), about["sha256"], float(about["fetched"]))
        return found if file_sha256(file) == found.sha256 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def keep(address: Address, write: Callable[[IO[bytes], Path], tuple[str, Mapping[str, str]]]) -> KeptCopy:
    """Writes a copy by ``write(file, folder)``, which returns its SHA-256 and its tag; it is kept whole, or not at all.

    Raises:
        DeltaError: the folder can't be written; whatever ``write`` raises.
    """
    folder = folder_of(address)
    with _disk_told(address):
        folder.mkdir(parents=True, exist_ok=True)
        trial = tempfile.mkdtemp(prefix=".part-", dir=folder)
    try:
        with open(Path(trial) / "file", "wb") as file:
            sha256, tag = write(file, folder)
            os.fsync(file.fileno())
        about = {"address": str(address), "tag": dict(tag), "sha256": sha256, "fetched": time.time()}
        place = folder / sha256 / address.file_name
        with _disk_told(address):
            place.parent.mkdir(exist_ok=True)
            os.replace(Path(trial) / "file", place)
            (Path(trial) / ABOUT_COPY).write_text(json.dumps(about), encoding="utf-8")
            os.replace(Path(trial) / ABOUT_COPY, folder / ABOUT_COPY)
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    _forget_older(folder, sha256)
    return KeptCopy(place, about["tag"], sha256, about["fetched"])


def _forget_older(folder: Path, newest: str) -> None:
    for old in folder.iterdir():
        if old.is_dir() and old.name != newest and not old.name.startswith("."):
            shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _disk_told(address: Address) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why: Any = disk_fault(error) or f"{error.strerror or error} ({error.filename}); set HF_HOME to another folder"
        raise DeltaError(f"{address} can't be kept: {why}") from error
