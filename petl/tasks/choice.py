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
        switch = TaskSwitch(self._name, name)
        self._name.set(name)
        return switch


class TaskSwitch:
    """A task has been made the current one; as a context manager, this is undone at the end, each time it is entered."""

    def __init__(self, current: ContextVar[str | None], name: str | None) -> None:
        self._current, self._name = current, name
        self._before = [current.get(UNCHOSEN)]  # of the first entry, then of those inside it
        self._entered = 0

    def __enter__(self) -> None:
        """Makes the task the current one, which it is already when this is entered for the first time."""
        if self._entered:
            self._before.append(self._current.get(UNCHOSEN))
        self._current.set(self._name)
        self._entered += 1

    def __exit__(self, *error: object) -> None:
        self._current.set(self._before.pop() if len(self._before) > 1 else self._before[0])
        self._entered -= 1
