"""Requests to the hub of `tests.support.hub`, and answers over HTTP, whole or broken as a test asks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.hub_state import Hub, Repo


class HubRequests(BaseHTTPRequestHandler):
    """A request: the faults that were asked for, who asks, and the routine that answers."""

    hub: Hub
    routes: ClassVar[list[tuple[str, Callable[..., Any]]]] = []
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: Any) -> None:
        pass

    # ---------------------------------------------------------------- answers

    def answer(self, status: int, value: Any = None, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps({} if value is None else value).encode()
        self.send_response(status)
        for key, text in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, code: str = "", message: str = "") -> None:
        headers = {"X-Error-Code": code} if code else {}
        self.answer(status, {"error": message}, {**headers, **({"X-Error-Message": message} if message else {})})

    def send_file(self, content: bytes, headers: dict[str, str], fault: str) -> None:
        if fault == "flip":
            content = content[:-1] + bytes([content[-1] ^ 1])
        start, status = 0, 200
        if match := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(match[1]), int(match[2] or len(content) - 1)
            headers = {**headers, "Content-Range": f"bytes {start}-{min(end, len(content) - 1)}/{len(content)}"}
            content, status = content[start : end + 1], 206
        length = {"short": len(content) // 2, "long": len(content) + 100}.get(fault, len(content))
        self.send_response(status)
        for key, text in headers.items():
            self.send_header(key, text)
        if fault != "silent":
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if fault in ("cut", "silent") else content[:length])
        self.close_connection = self.close_connection or fault in ("cut", "silent", "long")

    # ---------------------------------------------------------------- requests

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        self.way, self.query = unquote(url.path), parse_qs(url.query)
        request = f"{self.command} {self.way}"
        self.hub.asked.append(request)
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else self.read_chunks()
        fault = self.hub.fault(request)
        if fault.isdigit():
            return self.refuse(int(fault), message="as the test asked")
        if fault.startswith("to "):
            return self.answer(302, None, {"Location": fault[3:]})
        for pattern, handle in self.routes:
            if match := re.fullmatch(pattern, request):
                return handle(self, fault, *match.groups())
        return self.refuse(404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def read_chunks(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return b""
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def readable(self, name: str) -> Repo | None:
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self.token not in self.hub.writers):
            self.refuse(401 if not self.token else 404, "RepoNotFound", "Repository not found")
            return None
        return repo

    def writable(self, name: str) -> Repo | None:
        if not self.token:
            return self.refuse(401, message="Invalid username or password.")
        repo = self.readable(name)
        if repo is not None and self.token not in self.hub.writers:
            return self.refuse(403, message="You don't have the rights to create a model under this namespace")
        return repo
