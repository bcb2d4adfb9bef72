"""A real `petl serve` in a process of its own, on loopback."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from tests.support import served
from tests.support.zoo import make


def weights(folder: Path) -> str:
    """The backbone of `tests.support.served`, without its classifier, as a command names it."""
    file = folder / "weights.safetensors"
    kept = {key: value for key, value in make(served.BASE).state_dict().items() if not key.startswith("fc.")}
    save_file({key: value.contiguous() for key, value in kept.items()}, file)
    return f"test_resnet:{file}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as own:
        return own.getsockname()[1]


class LiveServer:
    """A server's process; ``address`` is where it listens, ``said`` the lines that it has written."""

    def __init__(self, folder: Path, model: str, *options: str) -> None:
        command = [sys.executable, "-m", "petl", "serve", str(folder), "--model", model, "--device", "cpu", *options]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"}
        )
        self.said: list[str] = []
        self.address = ""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(r"at (http://127.0.0.1:\d+)", line):
                self.address = found[1]
                break
        assert self.address, self.said
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.said += self.process.stderr

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """Asks the server to end, and waits; returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(120)
        self._reader.join(10)
        return status


@contextlib.contextmanager
def running(*arguments: Any) -> Iterator[LiveServer]:
    server = LiveServer(*arguments)
    try:
        yield server
    finally:
        server.kill()
