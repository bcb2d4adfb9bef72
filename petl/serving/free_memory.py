"""Gives memory that is free back to the system, where the C library keeps it for later."""

from __future__ import annotations

import contextlib
import ctypes


def give_memory_back() -> None:
    """Returns what glibc keeps of the memory of batches, often hundreds of megabytes; elsewhere it does nothing.

    glibc keeps blocks of up to 32 MB in heaps of each thread, where only the end of a heap goes back by itself.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
