"""`Pushed`: what `petl.push` wrote, or would write."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from petl.findings import Findings


@dataclass(frozen=True, repr=False)
class Pushed(Findings):
    """What `petl.push` wrote, or, of a dry run, would write. It prints as sentences.

    Attributes:
        repo: The repository. ``revision``: its branch, None for the main one.
        address: What `petl.load` takes.
        files: Bytes by file name. ``card``: the text of README.md, "" where none is written.
        commit: The commit's name on the hub, None of a dry run. ``url``: its page.
        out: The folder that the files were written to.
        notes: What the author should know: the licence, what is missing from the card.
    """

    repo: str
    revision: str | None
    address: str
    files: dict[str, int]
    card: str = field(repr=False)
    commit: str | None
    url: str | None
    out: Path | None
    notes: list[str]

    def sentences(self) -> list[str]:
        names = ", ".join(f"{name} ({size:,} bytes)" for name, size in self.files.items())
        branch = f", branch {self.revision}" if self.revision else ""
        if self.commit is not None:
            first = f"Pushed {names} to {self.repo}{branch}: {self.url}"
            return [first, f"{self.address} is what petl.load takes.", *self.notes]
        where = f"; it is in {self.out}" if self.out else ""
        return [f"Nothing was pushed. A push to {self.repo}{branch} would write {names}{where}.", *self.notes]

    def to_json(self) -> dict[str, Any]:
        """Returns every field as plain values."""
        return {**super().to_json(), "out": None if self.out is None else str(self.out)}
