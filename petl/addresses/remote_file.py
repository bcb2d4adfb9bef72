"""Files of web servers and buckets, through fsspec: streamed, judged as they come, kept until there is another version."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from petl.addresses.address import Address
from petl.addresses.fetch_errors import Unreachable, fetch_errors_told
from petl.addresses.incoming import Incoming, refuse_wrong_checksum
from petl.addresses.kept_copies import KeptCopy, keep, kept_copy
from petl.errors import DeltaError, near

log = logging.getLogger(__name__)

PIECE = 2**20  # bytes read at once
CONNECT_SECONDS, SILENT_SECONDS = 10, 30  # until there is a connection; without a byte
TRIES, FIRST_PAUSE = 3, 0.5  # of a server that fails; seconds before the second try, twice that before the third
TAGS = (
    "ETag",
    "etag",
    "Last-Modified",
    "LastModified",
    "last_modified",
    "md5Hash",
    "content_md5",
    "generation",
    "mtime",
    "sha",
)


class Arriving(NamedTuple):
    """A file that is about to come: the function that reads pieces of it, its size if that is known, and its version's tag."""

    read: Callable[[int], bytes]
    size: int | None
    tag: dict[str, str]


def remote_file(address: Address) -> Path:
    """Returns the path of a whole, current copy of the file at an address.

    Raises:
        DeltaError: it can't be fetched, isn't whole, isn't a safetensors file, or has another checksum than the address asks for.
    """
    kept = kept_copy(address)
    if kept is not None and kept.sha256 == address.sha256:
        return kept.file
    for attempt in range(TRIES):
        try:
            kept = _fetched(address, kept.tag if kept is not None else {}) or kept
            break
        except Unreachable as error:
            if attempt < TRIES - 1:
                time.sleep(FIRST_PAUSE * 2**attempt)
            elif kept is None:
                raise
            else:
                log.warning("%s; using the copy of %s", error, kept.date)
    assert kept is not None  # a server says "not modified" of a copy alone
    refuse_wrong_checksum(address, kept.sha256)
    return kept.file


def _fetched(address: Address, tag: Mapping[str, str]) -> KeptCopy | None:
    """Returns a new copy; None where the version of ``tag`` is still the current one."""
    with fetch_errors_told(address), _opened(address, tag) as stream:
        return keep(address, functools.partial(_write, address, stream)) if stream is not None else None


def _write(address: Address, stream: Arriving, file: IO[bytes], folder: Path) -> tuple[str, Mapping[str, str]]:
    incoming = Incoming(address, file, stream.size, folder)
    while piece := stream.read(PIECE):
        incoming.take(piece)
    return incoming.finish(), stream.tag


@contextlib.contextmanager
def _opened(address: Address, tag: Mapping[str, str]) -> Iterator[Arriving | None]:
    """A context that yields the file as a stream; None where its version is that of ``tag``."""
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    web = address.scheme in ("http", "https")
    if address.scheme not in known_implementations:
        hint = near(address.scheme, {*known_implementations} - {"root", "dir"})
        raise DeltaError(
            f"{address}: there is no kind of address {address.scheme}://{hint}; "
            "expected hf://, https://, s3:// or another of fsspec's"
        )
    files, path = url_to_fs(address.text, **(_web_options() if web and "::" not in address.text else {}))
    opened = _opened_page(address, files, path, tag) if web else _opened_object(address, files, path, tag)
    with opened as stream:
        yield stream


def _web_options() -> dict[str, Any]:
    """Returns the options of fsspec's web client: limits of time, and the proxies that the environment names."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}


@contextlib.contextmanager
def _opened_page(address: Address, files: Any, path: str, tag: Mapping[str, str]) -> Iterator[Arriving | None]:
    """Asks a web server for the file unless it still is the version of ``tag``, in one request."""
    asked = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}
    headers = {asked[key]: value for key, value in tag.items() if key in asked}
    # block_size=0 streams; a size given spares fsspec's own question about the size, whose errors don't say what happened
    with files.open(path, "rb", block_size=0, size=1, headers=headers) as page:
        reply = page.r
        if address.scheme == "https" and any(str(one.url).startswith("http:") for one in (*reply.history, reply)):
            raise DeltaError(
                f"{address} leads on to an address without encryption (http://), where anybody may change the file"
            )
        size = None if reply.headers.get("Content-Encoding") else reply.content_length
        yield None if reply.status == 304 and headers else Arriving(page.read, size, _tag(reply.headers))


@contextlib.contextmanager
def _opened_object(address: Address, files: Any, path: str, tag: Mapping[str, str]) -> Iterator[Arriving | None]:
    """Looks at the version of a file in a bucket (or wherever fsspec goes), and opens the file if it isn't that of ``tag``."""
    files.invalidate_cache()
    about = files.info(path)
    if about.get("type") == "directory":
        raise DeltaError(f"{address} is a folder; name a .safetensors file in it")
    found = {**_tag(about), "size": str(about.get("size"))}
    if len(found) > 1 and found == dict(tag):
        yield None
        return
    with files.open(path, "rb") as file:
        yield Arriving(file.read, about.get("size"), found)


def _tag(about: Mapping[str, Any]) -> dict[str, str]:
    """Returns what a server says of the version of a file."""
    return {key: str(about[key]) for key in TAGS if about.get(key)}
