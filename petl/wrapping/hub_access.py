"""Lets the hub's client use its cache alone where the hub can't be reached."""

from __future__ import annotations

import contextlib
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator

REACH_SECONDS = 3.0  # seconds that the hub may take to answer


@contextlib.contextmanager
def cache_if_unreachable() -> Iterator[None]:
    """Lets the hub's client use its cache alone where the hub can't be reached, instead of retrying for a minute."""
    try:
        from huggingface_hub import constants
    except ImportError:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable(endpoint: str) -> bool:
    """Whether a server answers at the address; behind a proxy nobody knows that, and the client may try."""
    if {"http", "https", "all"} & {*urllib.request.getproxies()}:
        return True
    place = urllib.parse.urlsplit(endpoint)
    try:
        with socket.create_connection((place.hostname or "", place.port or 443), timeout=REACH_SECONDS):
            return True
    except OSError:
        return False
