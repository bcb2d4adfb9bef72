"""What the hub of `tests.support.hub` holds: repositories, files, who may write, and the faults that a test asks for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

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
