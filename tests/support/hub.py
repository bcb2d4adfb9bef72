"""A web server on loopback that speaks what huggingface_hub uses of the hub, serves plain files, and fails as it is told.

`Hub.repos` holds revisions of repositories, as the clients sent them; `Hub.files` are served under ``/files/NAME``.
`Hub.faults` is a list of (part of "METHOD /path", what to do, how many times): "404", "401", "403", "500", "cut" (the
connection breaks off in mid-file), "short" and "long" (another Content-Length), "silent" (no length at all, and cut), "flip" (a
wrong byte), or "to ADDRESS" (a redirect).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http

from petl.addresses import remote_file
from tests.support.hub_answers import Handler
from tests.support.hub_state import TOKEN, Hub

__all__ = ["TOKEN", "Hub", "at_hub", "leftovers", "serving"]


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def at_hub(patch: pytest.MonkeyPatch, hub: Hub, cache: Path, *, token: str = "") -> None:
    """Points this process's huggingface_hub at the server, which reads its environment once, when it is imported."""
    values = {"ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
    values["HUGGINGFACE_CO_URL_TEMPLATE"] = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    values |= {
        "HF_HUB_CACHE": str(cache / "hub"),
        "HF_ASSETS_CACHE": str(cache / "assets"),
        "HF_TOKEN_PATH": str(cache / "token"),
    }
    for name, value in values.items():
        patch.setattr(constants, name, value)
    patch.setenv("HF_TOKEN", token)
    for module in (file_download, _http, remote_file):  # pauses between tries
        patch.setattr(module, "time", Hurried())


class Hurried:
    """The module `time`, whose `sleep` doesn't."""

    def sleep(self, seconds: float) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def leftovers(cache: Path) -> list[str]:
    """Files in the caches that are no whole delta's: what a download that failed must not leave."""
    kept = [
        path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock" and path.name != "CACHEDIR.TAG"
    ]
    return sorted(
        str(path.relative_to(cache)) for path in kept if "/refs/" not in str(path) and "/.no_exist/" not in str(path)
    )
