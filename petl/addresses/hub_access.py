"""Makes the hub's client use its cache alone where the hub can't be reached."""

from __future__ import annotations

import contextlib
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator

REACH_SECONDS = 3.0  # seconds for the connection to the hub


@contextlib.contextmanager
def cache_if_unreachable() -> Iterator[None]:
    """A context in which the hub's client uses its cache alone if the hub can't be reached, instead of retrying for a minute."""
    try:
        from huggingface_hub import constants
    except ImportError:
        yield
        return
    was_offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = was_offline or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline


def _reachable(endpoint: str) -> bool:
    """Returns whether a server accepts a connection; True behind a proxy, where only the hub's client can try."""
    if {"http", "https", "all"} & {*urllib.request.getproxies()}:
        return True
    url = urllib.parse.urlsplit(endpoint)
    try:
        with socket.create_connection((url.hostname or "", url.port or 443), timeout=REACH_SECONDS):
            return True
    except OSError:
        return False
