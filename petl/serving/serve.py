"""`serve`: runs the server until it is told to end."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from numbers import Integral
from typing import Any

from torch import nn

from petl.errors import StateError
from petl.serving.application import serving_app
from petl.serving.service import refuse_missing_packages
from petl.training.setting_checks import Bounds, refuse_number

log = logging.getLogger("petl.serving")
PORT = Bounds(Integral, 0, 65_535, "0 to 65,535")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    folder: str | os.PathLike[str],
    model: nn.Module | str | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: Any = None,
    trust_remote: bool = False,
    max_body: int = 20_000_000,
    max_batch: int = 32,
    max_wait_ms: float = 5.0,
    max_queue: int = 128,
    max_pixels: int = 50_000_000,
    poll_s: float = 1.0,
    body_s: float = 30.0,
) -> None:
    """Serves the deltas in a folder over HTTP until SIGTERM or Ctrl-C, and then answers what it has accepted.

    ``POST /predict?task=NAME`` with the bytes of an image, or a form with one file, gives what `petl.predict` has in a row. Files
    that come, change and go are followed. Requests of different tasks are computed together, as `petl.Tasks` does.
    There is no authentication: it listens on this machine alone unless ``host`` says otherwise.

    Args:
        folder: with deltas ``NAME.safetensors``, each of which is the task NAME.
        model: the backbone, a module or NAME, NAME:FILE, :FILE (of weights for the backbone that the deltas name) or "demo".
            None: what the deltas' headers name.
        port: 0 takes any that is free.
        trust_remote: whether the deltas may name a backbone outside timm (``hf-hub:``, ``local-dir:``), as for `petl.load`.
        device: to compute on; None is the accelerator where there is one, else the CPU.
        max_body: bytes of a request.
        max_batch: images computed together at most.
        max_wait_ms: how long the first image of a batch waits for others; with no other request at work it doesn't wait.
        max_queue: requests that are held at once; to more the server answers 503.
        max_pixels: of an image, with up to four channels; of twelve channels a third.
        poll_s: seconds between looks at the folder; a file is taken when it hasn't changed for as long.
        body_s: seconds in which a request's body has to come.

    Raises:
        PetlError: there is no such folder, its deltas have several backbones, or a limit can't be.
        StateError: fastapi isn't installed, or the address can't be listened on.
    """
    refuse_missing_packages()
    import uvicorn

    limits: dict[str, Any] = {"max_body": max_body, "max_batch": max_batch, "max_wait_ms": max_wait_ms}
    limits |= {"max_queue": max_queue, "max_pixels": max_pixels, "poll_s": poll_s, "body_s": body_s}
    with _events_shown(), contextlib.closing(_bound(host, port)) as own:
        site = serving_app(folder, model, device=device, trust_remote=trust_remote, **limits)
        place = own.getsockname()
        shown = f"[{host}]" if ":" in host else host
        log.info("%r at http://%s:%d; Ctrl-C ends it", site.state.service.catalogue, shown, place[1])
        if host not in LOOPBACK:
            log.warning("whoever reaches %s can ask: there is no authentication, put a proxy before it", host)
        server = uvicorn.Server(uvicorn.Config(site, log_level="warning", access_log=False, server_header=False))
        server.run(sockets=[own])


def _bound(host: str, port: int) -> socket.socket:
    """Returns a socket at this address, before the models are built; nobody can connect to it until the server listens."""
    refuse_number("port", port, PORT)  # getaddrinfo would take the rest of a division
    try:
        kind, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        own = socket.socket(kind, socket.SOCK_STREAM)
        try:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            own.bind(place)
        except BaseException:
            own.close()
            raise
    except (OSError, OverflowError, TypeError) as error:
        why = getattr(error, "strerror", None) or error
        raise StateError(f"can't listen on {host!s:.100}:{port!s:.20} ({why}); give another host or port") from error
    return own


@contextlib.contextmanager
def _events_shown() -> Iterator[None]:
    """A context that writes the server's events to stderr, unless the program has set up logging of its own."""
    if logging.getLogger().handlers:
        yield
        return
    shown = logging.StreamHandler(sys.stderr)
    shown.setFormatter(logging.Formatter("petl: %(message)s"))
    level, above = log.level, log.propagate
    log.addHandler(shown)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(shown)
        log.setLevel(level)
        log.propagate = above
