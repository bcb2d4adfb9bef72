"""What a run's training says of diverging is told with its outcome, under its name, and not between the lines of others."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

from petl.training import recovery


@contextlib.contextmanager
def divergence_untold() -> Iterator[None]:
    """Inside, this thread's trainings don't log that they diverged; their histories note it all the same."""
    thread = threading.get_ident()

    def of_others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    recovery.log.addFilter(of_others)
    try:
        yield
    finally:
        recovery.log.removeFilter(of_others)
