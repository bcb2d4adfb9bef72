"""Peak memory of a process: how much its steps raise the highest size that it had in the machine's memory."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections.abc import Callable
from pathlib import Path

STATUS = Path("/proc/self/status")  # Linux
MAXRSS = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of ru_maxrss


def resident_peak(step: Callable[[], object], steps: int = 3) -> int:
    """Bytes by which a few steps raise this process's resident size at its highest; for a process that does nothing else.

    Building the model took memory too, so Linux is asked to give back what is free and to forget the highest size so far.
    Elsewhere the highest size of the whole process counts, which can only make the difference smaller.
    """
    forget_peak()
    before = highest()
    for _ in range(steps):
        step()
    return highest() - before


def forget_peak() -> None:
    """The highest resident size of this process is from now on that of what follows."""
    gc.collect()
    if not STATUS.exists():
        return
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def highest() -> int:
    """The highest resident size in bytes: the kernel's mark, which unlike ru_maxrss does not begin with the parent's."""
    if not STATUS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS
    marks = [line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(marks[0].split()[1]) * 1024
