"""One task: a name, and a model that shares the backbone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from petl.errors import StateError, listing, near
from petl.prediction.meaning import HEADER_KEYS
from petl.wrapping.lookup import require_record
from petl.wrapping.record import Record


@dataclass(frozen=True, eq=False)
class AddedTask:
    """A name, the model with this delta on it, and what it changes in the backbone, by the shapes of images."""

    name: str
    model: nn.Module
    changes: dict[tuple[int, ...], Any] = field(default_factory=dict)

    @property
    def record(self) -> Record:
        return require_record(self.model)[1]

    @property
    def description(self) -> Mapping[str, Any]:
        """What is known of the outputs, with the keys of a delta's header."""
        record = self.record
        return {key: getattr(record, key) for key in HEADER_KEYS}


def find_task(tasks: Mapping[str, AddedTask], name: Any) -> AddedTask:
    """Returns the task of that name.

    Raises:
        StateError: there is none.
    """
    found = tasks.get(name) if isinstance(name, str) else None
    if found is None:
        hint = near(name, tasks) if isinstance(name, str) else ""
        there = f"the tasks are {listing(tasks)}" if tasks else "there are none: tasks.add(name, path)"
        raise StateError(f"there is no task {name!r:.100}{hint or f'; {there}'}")
    return found


def tasks_of_rows(tasks: Mapping[str, AddedTask], names: Any, count: int) -> list[AddedTask]:
    """Returns the task of each of ``count`` rows.

    Raises:
        StateError: an unknown task, or not one for each row.
    """
    if not isinstance(names, Iterable):
        raise StateError(f"task={names!r:.60}; expected the name of each image's task, or one name for all")
    names = [names] * count if isinstance(names, str) else [*names]
    if len(names) != count:
        raise StateError(f"{len(names)} tasks for {count} images; expected one for each, or one name for all")
    found: dict[str, AddedTask] = {}
    for name in names:
        if not isinstance(name, str) or name not in found:
            found[name] = find_task(tasks, name)
    return [found[name] for name in names]
