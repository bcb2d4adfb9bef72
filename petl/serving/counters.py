"""What the server counts, in the text format that Prometheus reads."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Iterable, Mapping

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Counter:
    """A number for each combination of labels."""

    def __init__(self, name: str, words: str, labels: tuple[str, ...] = ()) -> None:
        self.name, self.words, self.labels = name, words, labels
        self._values: dict[tuple[str, ...], int] = {} if labels else {(): 0}
        self._lock = threading.Lock()

    def add(self, *values: str, by: int = 1) -> None:
        with self._lock:
            self._values[values] = self._values.get(values, 0) + by

    def lines(self) -> Iterable[str]:
        with self._lock:
            found = sorted(self._values.items())
        yield from _head(self.name, self.words, "counter")
        yield from (f"{self.name}{_labels(zip(self.labels, key, strict=True))} {count}" for key, count in found)


class Histogram:
    """How many values were at most each of some bounds, their number and their sum."""

    def __init__(self, name: str, words: str, bounds: tuple[float, ...]) -> None:
        self.name, self.words, self.bounds = name, words, bounds
        self._counts, self._sum, self._lock = [0] * (len(bounds) + 1), 0.0, threading.Lock()

    def add(self, value: float) -> None:
        with self._lock:
            self._counts[bisect.bisect_left(self.bounds, value)] += 1
            self._sum += value

    def lines(self) -> Iterable[str]:
        with self._lock:
            counts, total = [*self._counts], self._sum
        yield from _head(self.name, self.words, "histogram")
        for number, bound in enumerate((*map(str, self.bounds), "+Inf")):
            yield f'{self.name}_bucket{{le="{bound}"}} {sum(counts[: number + 1])}'
        yield f"{self.name}_sum {total:.6f}"
        yield f"{self.name}_count {sum(counts)}"


class Counters:
    """All that a server counts."""

    def __init__(self) -> None:
        self.requests = Counter(
            "petl_requests_total", "Requests for an answer, by task and status.", ("task", "status")
        )
        self.rows = Counter("petl_rows_total", "Images, by how petl.Tasks computed them.", ("path",))
        self.batches = Counter("petl_batches_total", "Batches that were run.")
        self.seconds = Histogram("petl_request_seconds", "Seconds from a request's head to its answer.", SECONDS)
        self.batch_rows = Histogram("petl_batch_rows", "Images in a batch.", ROWS)
        self.batch_seconds = Histogram("petl_batch_seconds", "Seconds that a batch took.", SECONDS)

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """Returns all counters, and ``gauges``: words and value by name."""
        lines = [line for one in vars(self).values() for line in one.lines()]
        for name, (words, value) in gauges.items():
            lines += [*_head(name, words, "gauge"), f"{name} {value:g}"]
        return "\n".join(lines) + "\n"


def _head(name: str, words: str, kind: str) -> tuple[str, str]:
    return f"# HELP {name} {words}", f"# TYPE {name} {kind}"


def _labels(pairs: Iterable[tuple[str, str]]) -> str:
    inner = ",".join(f'{key}="{_escaped(value)}"' for key, value in pairs)
    return f"{{{inner}}}" if inner else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
