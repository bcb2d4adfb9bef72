"""Weights that timm fetches: from a server on this machine that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.backbones import weights_file
from tests.support.commands import bright_and_dark

TAG = "test_resnet.r160_in1k"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """The address of a hub that has the weights of one tag and no other."""
    contents = weights_file(tmp_path).read_bytes()

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            there = self.path == f"/timm/{TAG}/resolve/main/model.safetensors"
            self.send_response(200 if there else 404)
            for name, value in {"ETag": hashlib.sha256(contents).hexdigest(), "X-Repo-Commit": "0" * 40}.items():
                self.send_header(name, f'"{value}"' if name == "ETag" else value)
            self.send_header("Content-Length", str(len(contents)) if there else "0")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            if self.path == f"/timm/{TAG}/resolve/main/model.safetensors":
                self.wfile.write(contents)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.deep
def test_names_are_fetched_and_those_that_cannot_be_are_listed(hub: str, tmp_path: Path) -> None:
    bright_and_dark(tmp_path / "pets", 8)
    own = {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache"), "NO_PROXY": "127.0.0.1"}
    words = ["rank", str(tmp_path / "pets"), "--model", TAG, "--model", "test_vit.r160_in1k", "--size", "64", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "petl", *words], env={**os.environ, **own}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["name"] for row in found["rows"]] == [TAG] and found["rows"][0]["top1"] is not None
    assert "test_vit.r160_in1k" in found["left_out"]
