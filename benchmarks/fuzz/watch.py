"""Watches what a call does to the machine: what it opens, starts and fetches, its seconds, its memory, its warnings."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import sysconfig
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS, MEGABYTES, WARNINGS = 1.0, 300, 2  # for one call: of the processor, above what was held before, of any kind
HUNG = 20.0  # seconds of the processor after which a call is broken off
FORBIDDEN = (
    "socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.mkdir", "os.rmdir", "os.rename",
    "os.remove", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate", "shutil.", "tempfile.", "urllib.",
    "http.", "ftplib.", "pickle.find_class", "marshal.loads", "ctypes.dlopen",
)  # fmt: skip
CODE = (
    sys.prefix,
    sys.base_prefix,
    *sysconfig.get_paths().values(),
    str(Path(__file__).parents[2]),
    "/proc/",
    "/sys/",
    "/usr/",
    *([sys.pycache_prefix] if sys.pycache_prefix else []),  # where PYTHONPYCACHEPREFIX keeps compiled modules
)


class Hung(BaseException):
    """A call took far longer than it may."""


@dataclass
class Seen:
    """What was seen of one call."""

    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    megabytes: int = 0


class _Handler(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Watch:
    """An audit hook can't be taken off again, so there is one for a process; it is silent outside of ``watching``."""

    def __init__(self, allowed: Path):
        self.allowed, self.faults, self.active, self.most = str(allowed), [], False, 0
        sys.addaudithook(self._audit)
        self._handler = _Handler()
        logging.getLogger().addHandler(self._handler)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "open":
            path, mode, flags = (*args, None, 0)[:3]
            writes = isinstance(mode, str) and any(letter in mode for letter in "wax+")
            writes = writes or (isinstance(flags, int) and bool(flags & 0o1103))
            known = isinstance(path, int) or str(path) == self.allowed or str(path).startswith(CODE)
            if writes or not known:
                self.faults.append(f"opened {str(path)[:100]!r} ({mode})")
        elif event.startswith(FORBIDDEN) and not _by_an_import(event):
            self.faults.append(f"{event} {str(args)[:100]}")

    @contextlib.contextmanager
    def watching(self) -> Iterator[Seen]:
        """Inside, everything that the call does is seen; ``Hung`` is raised where it doesn't end."""
        seen = Seen()
        self.faults, self._handler.lines = [], []
        before = _reset_highest()
        signal.signal(signal.SIGVTALRM, _hung)
        signal.setitimer(signal.ITIMER_VIRTUAL, HUNG)
        started = time.process_time()
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                self.active = True
                try:
                    yield seen
                finally:
                    self.active = False
        except Hung:
            self.faults.append(f"broken off after {HUNG} seconds")
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        seen.seconds, seen.megabytes = time.process_time() - started, _highest() - before
        said = [str(one.message)[:80] for one in warned] + self._handler.lines
        limits = [f"{seen.seconds:.1f} seconds"] if seen.seconds > SECONDS else []
        limits += [f"{seen.megabytes} MB"] if seen.megabytes > MEGABYTES else []
        limits += [f"{len(said)} warnings: {said[0]}"] if len(said) > WARNINGS else []
        seen.faults += [*self.faults, *limits]


def _hung(*_: Any) -> None:
    raise Hung


def _by_an_import(event: str) -> bool:
    """Whether modules are being imported, whose bytes are unmarshalled."""
    return event in ("marshal.loads", "ctypes.dlopen") and any(
        frame.startswith("<frozen importlib") for frame in _file_names()
    )


def _file_names() -> Iterator[str]:
    frame: Any = sys._getframe(1)
    while frame is not None:
        yield frame.f_code.co_filename
        frame = frame.f_back


def _reset_highest() -> int:
    """Forgets the most memory that the process has had, and returns what it has now, in MB; 0 outside Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _highest()


def _highest() -> int:
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) // 1024
    return 0
