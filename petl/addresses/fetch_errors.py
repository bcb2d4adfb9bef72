"""Turns what clients of the network and of storage raise into one DeltaError: what was seen, and what to do."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

from petl.addresses.address import Address
from petl.errors import DeltaError, PetlError, shortened

LONGEST_SAID = 300  # characters of what another library says
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)
EXTRAS = {"s3": "s3", "s3a": "s3", "http": "remote", "https": "remote"}  # scheme -> extra of petl-vision
BROKEN_OFF = {"ClientPayloadError", "RemoteProtocolError", "IncompleteRead", "ReadError", "ServerDisconnectedError"}
LOG_IN = "for a private repository log in with `hf auth login`, or set HF_TOKEN"


class Unreachable(DeltaError):
    """Nothing was said of the file itself: no connection, one that broke off, a server that fails. It may be better next time."""


@contextlib.contextmanager
def fetch_errors_told(address: Address) -> Iterator[None]:
    """A context that turns any error of a download into a DeltaError that names the address, without passwords."""
    try:
        yield
    except PetlError:
        raise
    except Exception as error:  # clients of many protocols raise errors of their own
        raise fetch_error(address, error) from error


def fetch_error(address: Address, error: Exception) -> DeltaError:
    """Returns the error to raise for one of a client."""
    local = disk_fault(error)
    if local:
        return DeltaError(f"{address} can't be kept: {local}")
    if isinstance(error, ImportError):
        return DeltaError(f"{address} needs a package that isn't installed: {_package(address, error)}")
    status, kind = status_of(error), _names(error)
    hidden = (
        "RepositoryNotFoundError" in kind and "GatedRepoError" not in kind
    )  # the hub answers 401 for what isn't there
    if isinstance(error, FileNotFoundError) or hidden or status in (404, 410):
        return DeltaError(
            f"there is no {address}{_about_hub(address)}; look at its spelling, also of small letters and capitals"
        )
    if isinstance(error, PermissionError) or "NoCredentialsError" in kind or status in (401, 403, 407):
        code = f" ({status})" if status else ""
        return DeltaError(f"no right to read {address}{code}; {_how_to_log_in(address)}")
    if why := _why_unreachable(address, error, status, kind):
        return Unreachable(why)
    return DeltaError(f"{address} can't be fetched: {type(error).__name__}: {_said(address, error)}")


def _why_unreachable(address: Address, error: Exception, status: int | None, kind: set[str]) -> str:
    """Returns what happened to the connection; "" where it isn't at fault."""
    if isinstance(error, TimeoutError) or kind & {"TimeoutException", "FSTimeoutError"}:
        return f"{address} didn't answer in time; try again, or copy the file here another way"
    if kind & BROKEN_OFF:
        return f"the connection to {address} broke off before the file was whole; nothing was kept: try again"
    if isinstance(error, ConnectionError) or kind & {"ClientConnectorError", "ConnectError", "EndpointConnectionError"}:
        return f"{address} can't be reached ({_said(address, error)}); look at the connection and the name"
    if status and (status >= 500 or status in (408, 429)):
        return f"the server of {address} fails ({status}); try again later"
    return ""


def disk_fault(error: BaseException) -> str:
    """Returns what is wrong with the disk here; "" where the error is of another kind."""
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in DISK_IS_FULL:
            return f"the disk is full{f' ({one.filename})' if one.filename else ''}; make room, or set HF_HOME to another one"
        if isinstance(one, OSError) and one.errno in NO_RIGHT and one.filename:
            return f"no right to write {one.filename}; set HF_HOME to a folder that may be written"
    return ""


def status_of(error: BaseException) -> int | None:
    """Returns the HTTP status in an error of huggingface_hub's, aiohttp's or botocore's client; None where there is none."""
    for one in _chain(error):
        response: Any = getattr(one, "response", None)
        if isinstance(response, dict):
            response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        found = getattr(one, "status", None) or getattr(response, "status_code", response)
        if isinstance(found, int):
            return found
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields an error and what caused it."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        yield current
        seen.append(current)
        current = current.__cause__ or current.__context__


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for one in _chain(error) for kind in type(one).__mro__}


def _package(address: Address, error: ImportError) -> str:
    extra = EXTRAS.get(address.scheme)
    return f'pip install "petl-vision[{extra}]"' if extra else shortened(str(error), LONGEST_SAID)


def _said(address: Address, error: Exception) -> str:
    """Returns what a client said, in one line and without the address, whose query may be a signature."""
    text = " ".join(str(error).split()).replace(address.text, str(address))
    query = address.text.partition("?")[2]
    return shortened(text.replace(query, "...") if query else text, LONGEST_SAID)


def _about_hub(address: Address) -> str:
    return f", or it is private and nobody is logged in ({LOG_IN})" if address.scheme == "hf" else ""


def _how_to_log_in(address: Address) -> str:
    if address.scheme == "hf":
        return f"{LOG_IN}, and accept its terms where the hub asks for that"
    if address.scheme in ("s3", "s3a"):
        return "look at the credentials that s3fs finds: AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return "ask its owner, or copy the file here another way"
