"""Puts requests that come at about the same time into one batch, whatever their tasks, and runs batches one after the other."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

log = logging.getLogger("petl.serving")


class _Item(NamedTuple):
    work: Any
    answer: Future[Any]
    since: float


class Batcher:
    """A thread that answers what is submitted, in batches of at most ``most``.

    The first of a batch waits at most ``wait_s`` for others, and not at all where no more are at work than are here:
    ``expected()`` is how many are.

    Args:
        run: returns the answers for a list of work. Where it fails, each is run alone, so that one can't spoil the others.
        rest: is called when no work has come for ``rest_s``, once after each time of work.
    """

    def __init__(
        self,
        run: Callable[[list[Any]], Sequence[Any]],
        *,
        most: int,
        wait_s: float,
        expected: Callable[[], int],
        rest: Callable[[], None] = lambda: None,
        rest_s: float = 1.0,
    ) -> None:
        self.rest, self.rest_s = rest, rest_s
        self.run, self.most, self.wait_s, self.expected = run, most, wait_s, expected
        self._items: deque[_Item] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="petl-batches", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def __len__(self) -> int:
        return len(self._items)

    def submit(self, work: Any) -> Future[Any]:
        """Returns what will have the answer."""
        item = _Item(work, Future(), time.monotonic())
        with self._changed:
            self._items.append(item)
            self._changed.notify()
        return item.answer

    def nudge(self) -> None:
        """Says that ``expected()`` may have changed."""
        with self._changed:
            self._changed.notify()

    def stop(self) -> None:
        """Answers what has been submitted, and ends."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        has_rested = True
        while (items := self._next(None if has_rested else self.rest_s)) is not None:
            has_rested = not items
            if has_rested:
                self.rest()
            elif live := [item for item in items if item.answer.set_running_or_notify_cancel()]:
                self._answer(live)
            items = live = None  # nothing of a batch is kept until the next

    def _next(self, patience: float | None) -> list[_Item] | None:
        """Waits for a batch; returns an empty one where none comes for so many seconds, None when all is answered and the end
        was asked for."""
        with self._changed:
            while not self._items and not self._stopping:
                if not self._changed.wait(patience):
                    return []
            while self._items and len(self._items) < self.most and not self._stopping:
                left = self._items[0].since + self.wait_s - time.monotonic()
                if left <= 0 or self.expected() <= len(self._items):
                    break
                self._changed.wait(left)
            return [self._items.popleft() for _ in range(min(self.most, len(self._items)))] or None

    def _answer(self, items: list[_Item]) -> None:
        try:
            answers = self.run([item.work for item in items])
        except Exception as error:
            if len(items) == 1:
                log.error("an image couldn't be computed", exc_info=error)
                items[0].answer.set_exception(error.with_traceback(None))  # whose frames hold images, and this answer
                return
            log.warning("a batch of %d failed (%s); each is run alone", len(items), type(error).__name__)
            answers = None
        if answers is None:  # after the handler, as errors in it would keep the first one, and so all images
            for item in items:
                self._answer([item])
            return
        for item, answer in zip(items, answers, strict=True):
            item.answer.set_result(answer)
