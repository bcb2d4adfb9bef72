"""One task: a name, and a model that shares the backbone."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from petl.errors import StateError, listing, near
from petl.objectives.metric_learning import classifier_of
from petl.prediction.meaning import HEADER_KEYS
from petl.tasks.modes import Watched
from petl.wrapping.lookup import require_record
from petl.wrapping.record import Record


@dataclass(frozen=True, eq=False)
class AddedTask:
    """A name, the model with this delta on it, and what it changes in the backbone, by the shapes of images.

    ``home`` is the backbone that it shares with the other tasks of one `petl.Tasks`.
    """

    name: str
    model: nn.Module
    home: Any = None
    changes: dict[tuple[int, ...], Any] = field(default_factory=dict)

    @cached_property
    def modes(self) -> Watched:
        return Watched(self.model)

    @property
    def record(self) -> Record:
        return require_record(self.model)[1]

    @property
    def description(self) -> Mapping[str, Any]:
        """What is known of the outputs, with the keys of a delta's header."""
        record = self.record
        return {key: getattr(record, key) for key in HEADER_KEYS}

    @cached_property
    def embedder(self) -> nn.Module | None:
        """The classifier whose input is this task's answer, as in `petl.predict`; None where the answer is the output."""
        return classifier_of(self.model) if self.record.task == "metric" else None


TaskOfRows = str | AddedTask | Sequence[str | AddedTask]


def refuse_name(name: Any, taken: Container[str]) -> None:
    """Raises a StateError for what can't be a new task's name."""
    if not isinstance(name, str) or not name:
        raise StateError(f"got {name!r:.60} as a task's name; expected a text, such as 'pets'")
    if name in taken:
        raise StateError(
            f"there is a task {name!r} already; tasks.add({name!r}, ..., replace=True) puts another in its place"
        )


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


def tasks_of_rows(tasks: Mapping[str, AddedTask], names: Any, count: int, home: Any) -> list[AddedTask]:
    """Returns the task of each of ``count`` rows, by its name or as it was held.

    Raises:
        StateError: an unknown task, one of another backbone, or not one for each row.
    """
    if not isinstance(names, Iterable | AddedTask):
        raise StateError(f"task={names!r:.60}; expected the name of each image's task, or one name for all")
    names = [names] * count if isinstance(names, str | AddedTask) else [*names]
    if len(names) != count:
        raise StateError(f"{len(names)} tasks for {count} images; expected one for each, or one name for all")
    found = {
        name: _as_held(name, home) if isinstance(name, AddedTask) else find_task(tasks, name) for name in _once(names)
    }
    for task in found.values():
        task.modes.refuse_training()
    return [found[name] for name in names]


def _once(names: Sequence[Any]) -> list[Any]:
    """Returns each name or task once, in their order."""
    odd = next((name for name in names if not isinstance(name, str | AddedTask)), None)
    return [*dict.fromkeys(names)] if odd is None else [odd]


def _as_held(task: AddedTask, home: Any) -> AddedTask:
    if task.home is not home:
        raise StateError(
            f"task {task.name!r} was held by another petl.Tasks; hold it by this one: tasks.hold({task.name!r})"
        )
    return task
