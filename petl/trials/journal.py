"""The file of a comparison that grows as runs end: with it an interrupted one goes on where it was."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from petl.errors import StateError, listing
from petl.findings import json_value
from petl.format.atomic_files import open_atomically
from petl.trials.trial import Outcome

JOURNAL = "runs.json"


class Journal:
    """The runs that have ended, and what was decided between them, in ``runs.json`` of a folder.

    Args:
        arguments: What the comparison was asked, as plain values: a folder of another one is refused.

    Raises:
        StateError: the folder holds another comparison, or a file that can't be read.
    """

    def __init__(self, folder: Path, arguments: Mapping[str, Any]):
        self.path, self.arguments, self.started = folder / JOURNAL, json_value(arguments), time.perf_counter()
        self.outcomes: dict[str, Outcome] = {}
        self.decisions: dict[str, Any] = {}
        self.before = 0.0  # seconds of earlier calls
        if self.path.exists():
            self._read()

    @property
    def elapsed(self) -> float:
        """Returns the seconds since the start, with those of earlier calls."""
        return self.before + time.perf_counter() - self.started

    def add(self, outcome: Outcome) -> None:
        """Keeps what a run found."""
        self.outcomes[outcome.key] = outcome
        self.write()

    def decided(self, what: str, decide: Callable[[], Any]) -> Any:
        """Returns what was decided before, or what ``decide`` decides now, as plain values."""
        if what not in self.decisions:
            self.decisions[what] = json_value(decide())
            self.write()
        return self.decisions[what]

    def write(self) -> None:
        """Writes the file, whole or not at all."""
        content = {
            "kind": "runs of petl.compare",
            "arguments": self.arguments,
            "elapsed": self.elapsed,
            "decisions": self.decisions,
            "runs": [dataclasses.asdict(outcome) for outcome in self.outcomes.values()],
        }
        with open_atomically(self.path) as file:
            file.write(json.dumps(json_value(content), indent=1).encode() + b"\n")

    def _read(self) -> None:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            then, self.before, self.decisions = content["arguments"], content["elapsed"], content["decisions"]
            outcomes = [Outcome(**{**run, "loss": _number(run["loss"])}) for run in content["runs"]]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise StateError(f"{self.path} is no file of petl.compare ({error}); pass another folder") from error
        if other := [name for name in {**then, **self.arguments} if then.get(name) != self.arguments.get(name)]:
            said = listing(_differing(other, then, self.arguments))
            raise StateError(
                f"folder={str(self.path.parent)!r} holds a comparison that was asked otherwise ({said}); "
                "repeat that call to go on with it, or pass another folder"
            )
        self.outcomes = {outcome.key: outcome for outcome in outcomes}


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _differing(names: list[str], then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns what differs, with both values where they are short."""
    pairs = ((name, json.dumps(then.get(name)), json.dumps(now.get(name))) for name in names)
    return [f"{name}={old}, now {new}" if len(old) + len(new) < 40 else f"other {name}" for name, old, new in pairs]
