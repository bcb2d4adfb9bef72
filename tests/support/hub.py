"""A web server on loopback that speaks what huggingface_hub uses of the hub, serves plain files, and fails as it is told.

`Hub.repos` holds revisions of repositories, as the clients sent them; `Hub.files` are served under ``/files/NAME``.
`Hub.faults` is a list of (part of "METHOD /path", what to do, how many times): "404", "401", "403", "500", "cut" (the
connection breaks off in mid-file), "short" and "long" (another Content-Length), "silent" (no length at all, and cut), "flip" (a
wrong byte), or "to ADDRESS" (a redirect).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http

from petl.addresses import remote_file

TOKEN = "hf_right"


@dataclass
class Repo:
    """A repository: its commits, each the files by name, and its branches."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    large: set[str] = field(default_factory=set)  # SHA-256 of files that are kept apart

    def commit(self, branch: str, changes: dict[str, bytes], message: str = "") -> str:
        files = {**self.commits.get(self.branches.get(branch, ""), {}), **changes}
        name = hashlib.sha1(repr((branch, len(self.messages), sorted(files))).encode()).hexdigest()
        self.commits[name], self.branches[branch] = files, name
        self.messages.append(message)
        return name

    def resolved(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)


class Hub:
    """The server's state; ``url`` is its address."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.files: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}
        self.faults: list[list[Any]] = []
        self.asked: list[str] = []
        self.writers = {TOKEN}
        self.url = ""

    def repo(self, name: str, **files: bytes) -> Repo:
        """A repository with one commit; large files by the endings that the hub keeps apart."""
        repo = self.repos[name] = Repo()
        repo.commit("main", {})
        for file, content in files.items():
            self.add(name, file, content)
        return repo

    def add(self, name: str, file: str, content: bytes) -> str:
        repo = self.repos[name]
        if file.endswith(".safetensors"):
            repo.large.add(hashlib.sha256(content).hexdigest())
        return repo.commit("main", {file: content})

    def fail(self, where: str, what: str, times: int = 1000) -> None:
        self.faults.append([where, what, times])

    def fault(self, request: str) -> str:
        for one in self.faults:
            if one[0] in request and one[2] > 0:
                one[2] -= 1
                return str(one[1])
        return ""


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


class Handler(BaseHTTPRequestHandler):
    hub: Hub
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
        for pattern, handle in ROUTES:
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

    # ---------------------------------------------------------------- the hub

    def plain_file(self, fault: str, name: str) -> None:
        content = self.hub.files.get(name)
        if content is None:
            return self.refuse(404)
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        if self.headers.get("If-None-Match") == tag:
            return self.answer(304, b"", {"ETag": tag})
        return self.send_file(content, {"ETag": tag, "Content-Type": "application/octet-stream"}, fault)

    def resolve(self, fault: str, name: str, revision: str, file: str) -> None:
        if (repo := self.readable(name)) is None:
            return None
        commit = repo.resolved(revision)
        if commit is None:
            return self.refuse(404, "RevisionNotFound")
        headers = {"X-Repo-Commit": commit}
        if file not in repo.commits[commit]:
            return self.answer(404, None, {"X-Error-Code": "EntryNotFound", **headers})
        content = repo.commits[commit][file]
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 in repo.large:
            self.hub.stored[sha256] = content
            # another host, as the real one's: the client sends it no token
            linked = {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{sha256}"'}
            return self.answer(
                302,
                None,
                {"Location": f"{self.hub.url}/cdn/{sha256}".replace("127.0.0.1", "localhost"), **linked, **headers},
            )
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return self.send_file(content, {"ETag": f'"{git}"', **headers}, fault)

    def cdn(self, fault: str, sha256: str) -> None:
        self.send_file(self.hub.stored[sha256], {"ETag": f'"{sha256}"'}, fault)

    def about(self, fault: str, name: str, revision: str | None) -> None:
        if (repo := self.readable(name)) is None:
            return None
        commit = repo.resolved(revision or "main")
        if commit is None:
            return self.refuse(404, "RevisionNotFound")
        files = [{"rfilename": file} for file in sorted(repo.commits[commit])]
        return self.answer(200, {"id": name, "sha": commit, "private": repo.private, "siblings": files, "tags": []})

    def create(self, fault: str) -> None:
        asked = self.json
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        if not self.token:
            return self.refuse(401, message="Invalid username or password.")
        if name in self.hub.repos:
            return self.answer(409, {"url": f"{self.hub.url}/{name}", "error": "You already created this model repo"})
        if self.token not in self.hub.writers:
            return self.refuse(403, message="You don't have the rights to create a model under this namespace")
        self.hub.repo(name).private = asked.get("visibility") == "private" or bool(asked.get("private"))
        return self.answer(200, {"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def branch(self, fault: str, name: str, branch: str) -> None:
        if (repo := self.writable(name)) is None:
            return None
        if branch in repo.branches:
            return self.refuse(409)
        repo.branches[branch] = repo.branches["main"]
        return self.answer(200)

    def validate(self, fault: str) -> None:
        self.answer(200, {"errors": [], "warnings": []})

    def preupload(self, fault: str, name: str, revision: str) -> None:
        if self.writable(name) is None:
            return None
        modes = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for f in self.json["files"]
        ]
        return self.answer(200, {"files": modes})

    def lfs_batch(self, fault: str, name: str) -> None:
        if self.writable(name) is None:
            return None
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}} for one in self.json["objects"]
        ]
        return self.answer(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, fault: str, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.refuse(400)
        self.hub.stored[oid] = self.body
        return self.answer(200)

    def commit(self, fault: str, name: str, branch: str) -> None:
        if (repo := self.writable(name)) is None:
            return None
        changes, message = {}, ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                changes[value["path"]] = self.hub.stored[value["oid"]]
                repo.large.add(value["oid"])
        commit = repo.commit(branch, changes, message)
        return self.answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})


NAME = r"([^/]+/[^/]+)"
ROUTES: list[tuple[str, Any]] = [
    (r"(?:GET|HEAD) /files/(.+)", Handler.plain_file),
    (r"(?:GET|HEAD) /cdn/(\w+)", Handler.cdn),
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate),
    (rf"GET /api/models/{NAME}(?:/revision/(.+))?", Handler.about),
    (rf"POST /api/models/{NAME}/branch/(.+)", Handler.branch),
    (rf"POST /api/models/{NAME}/preupload/(.+)", Handler.preupload),
    (rf"POST /api/models/{NAME}/commit/(.+)", Handler.commit),
    (rf"POST /{NAME}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (r"PUT /lfs/(\w+)", Handler.lfs_put),
    (rf"(?:GET|HEAD) /{NAME}/resolve/(refs/pr/\d+|[^/]+)/(.+)", Handler.resolve),
]


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
