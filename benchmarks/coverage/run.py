"""Running pairs in subprocesses with limits, and keeping what they found: one JSON line per pair, appended at once."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.coverage.plan import Pair

RAN = ("pass", "fail", "n/a")  # the others say why a pair was not run to its end: timeout, memory, crash, skipped
Line = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """Per architecture: seconds, and bytes of resident memory."""

    seconds: float = 900
    memory: float = 8e9


class Results:
    """JSON lines in a file per depth; of two lines on one pair, the later one counts."""

    def __init__(self, path: Path):
        self.path, self.lock = path, threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)

    def read(self) -> dict[tuple[str, str], Line]:
        texts = self.path.read_text().splitlines() if self.path.exists() else []
        lines = [json.loads(text) for text in texts if text.endswith("}")]  # a run may have been stopped while it wrote
        return {(line["architecture"], line["method"]): line for line in lines}

    def compact(self, again: Sequence[str] = ()) -> None:
        """Keep the last line of each pair, but for the statuses that are to be tried again."""
        kept = [line for line in self.read().values() if line["status"] not in again]
        self.path.write_text("".join(dumped(line) for line in kept))

    def add(self, line: Line) -> None:
        with self.lock, self.path.open("a") as file:
            file.write(dumped(line))


def dumped(line: Line) -> str:
    return (
        json.dumps({key: value for key, value in line.items() if value not in ({}, "")}, separators=(",", ":")) + "\n"
    )


def run(
    pairs: Sequence[Pair], results: Results, jobs: int, limits: Limits, group: int, tell: Callable[[Line], None]
) -> None:
    """Try all pairs that the results lack, ``group`` architectures to a subprocess, ``jobs`` subprocesses at a time."""
    done = results.read()
    left = [pair for pair in pairs if (pair.architecture, pair.column) not in done]

    def keep(line: Line) -> None:
        results.add(line)
        tell(line)

    with ThreadPoolExecutor(jobs) as pool:
        for _ in pool.map(lambda part: _group(part, keep, limits), groups(left, group)):
            pass


def groups(pairs: Iterable[Pair], size: int) -> list[list[Pair]]:
    """Lists of pairs, each of ``size`` architectures with all of their columns."""
    by_name: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_name.setdefault(pair.architecture, []).append(pair)
    parts = list(by_name.values())
    return [[pair for part in parts[i : i + size] for pair in part] for i in range(0, len(parts), size)]


def _group(pairs: list[Pair], keep: Callable[[Line], None], limits: Limits) -> None:
    """Run the pairs in one subprocess; what it didn't survive becomes a line too, and the rest runs in a new one."""
    while pairs:
        lines, fate = _watched(pairs, keep, limits)
        pairs = pairs[lines:]
        if pairs and fate:
            keep(_ended(pairs[0], *fate))
            name = pairs.pop(0).architecture
            while pairs and pairs[0].architecture == name and fate[0] in ("timeout", "memory"):
                keep(
                    _ended(pairs.pop(0), "skipped", f"an earlier method of this architecture met its limit: {fate[1]}")
                )


def _ended(pair: Pair, status: str, reason: str) -> Line:
    return {"architecture": pair.architecture, "method": pair.column, "status": status, "reason": reason}


def _watched(pairs: list[Pair], keep: Callable[[Line], None], limits: Limits) -> tuple[int, tuple[str, str] | None]:
    """How many pairs a subprocess finished, and what ended it before its time, if anything did."""
    child, lines, seen = _start(pairs), 0, time.monotonic()
    inbox = _inbox(child)
    try:
        while lines < len(pairs):
            ended = child.poll() is not None
            try:
                text = inbox.get(timeout=0.25)
            except queue.Empty:
                if ended:
                    return lines, ("crash", f"the process ended with code {child.returncode}")
            else:
                if text.startswith('{"architecture"'):
                    keep(json.loads(text))
                    lines += 1
                    seen = seen if lines < len(pairs) and same(pairs, lines) else time.monotonic()
            if time.monotonic() - seen > limits.seconds:
                return lines, ("timeout", f"over {limits.seconds:.0f} s")
            if resident(child.pid) > limits.memory:
                return lines, ("memory", f"over {limits.memory / 1e9:.0f} GB")
        return lines, None
    finally:
        child.kill()
        child.wait()


def _inbox(child: subprocess.Popen[str]) -> queue.Queue[str]:
    """What the subprocess prints, line by line, as it comes."""
    inbox: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: [inbox.put(text) for text in child.stdout or ()], daemon=True).start()  # type: ignore[func-returns-value]
    return inbox


def same(pairs: list[Pair], i: int) -> bool:
    return pairs[i].architecture == pairs[i - 1].architecture


def resident(pid: int) -> int:
    """Bytes of memory that the process has now; 0 where the system doesn't say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _start(pairs: list[Pair]) -> subprocess.Popen[str]:
    """A subprocess of one thread that gets the pairs by its standard input and answers with a line for each."""
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), env.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "benchmarks.coverage.worker"]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
    )
    assert child.stdin is not None  # it is a pipe
    child.stdin.write(json.dumps([asdict(pair) for pair in pairs]))
    child.stdin.close()
    return child
