"""What the hub of `tests.support.hub` answers at each address that huggingface_hub uses."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from tests.support.hub_requests import HubRequests


class Handler(HubRequests):
    """The hub's addresses, and plain files."""

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
Handler.routes = ROUTES
