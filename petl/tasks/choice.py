"""Which task each thread, or asyncio task, has made the current one."""

from __future__ import annotations

import threading
from contextvars import ContextVar

UNCHOSEN = ""  # no task's name: the thread has chosen nothing


class TaskChoice:
    """The current task's name for each thread and asyncio task; None is the backbone, ``UNCHOSEN`` where nothing was chosen."""

    def __init__(self) -> None:
        self._name: ContextVar[str | None] = ContextVar("task")
        self._home = threading.get_ident()

    @property
    def name(self) -> str | None:
        return self._name.get(UNCHOSEN)

    @property
    def is_at_home(self) -> bool:
        """Returns whether this is the thread that made the choice's `petl.Tasks`."""
        return threading.get_ident() == self._home

    def set(self, name: str | None) -> TaskSwitch:
        """Makes ``name`` the current one; returns what undoes it."""
        switch = TaskSwitch(self._name, self.name)
        self._name.set(name)
        return switch


class TaskSwitch:
    """A task has been made the current one; as a context manager, this is undone at the end."""

    def __init__(self, current: ContextVar[str | None], before: str | None) -> None:
        self._current, self._before = current, before

    def __enter__(self) -> None:
        """Does nothing: the task is the current one already."""

    def __exit__(self, *error: object) -> None:
        self._current.set(self._before)
