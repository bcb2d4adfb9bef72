"""What answers requests: the tasks of a folder, threads that read images and run batches, and one that looks at the folder."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petl.errors import StateError, listing, near
from petl.serving.batching import Batcher
from petl.serving.catalogue import Catalogue
from petl.serving.counters import Counters
from petl.serving.free_memory import give_memory_back
from petl.serving.refusals import Refusal, quoted
from petl.serving.served_task import ServedTask
from petl.serving.serving_settings import ServingSettings
from petl.tasks.outputs import RowAnswer

log = logging.getLogger("petl.serving")
Work = tuple[ServedTask, Tensor]


class Service:
    """Answers images by the tasks of a folder; its threads start with the first request, or by `start`, and end by `stop`."""

    def __init__(self, folder: Path, backbone: nn.Module, device: Any, settings: ServingSettings) -> None:
        self.settings, self.counters = settings, Counters()
        self.catalogue = Catalogue(folder, backbone, best_device() if device is None else device, settings.poll_s)
        self.catalogue.update()
        self.in_flight = 0
        self._lock = threading.Lock()
        self._threads: _Threads | None = None

    def start(self) -> _Threads:
        """Starts the threads, if they don't run."""
        with self._lock:
            self._threads = self._threads or _Threads(self)
            return self._threads

    def stop(self) -> None:
        """Answers what was accepted, and ends the threads."""
        with self._lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.stop()

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """A context for one request, or a Refusal where as many are being answered as the server holds."""
        threads = self.start()
        with self._lock:
            if self.in_flight >= self.settings.max_queue:
                raise Refusal(
                    503, f"{self.in_flight} requests are being answered, as many as this server holds; try again", 1
                )
            self.in_flight += 1
        try:
            yield
        finally:
            with self._lock:
                self.in_flight -= 1
            threads.batcher.nudge()

    def task(self, name: str) -> ServedTask:
        """Returns the task of this name as it is now.

        Raises:
            Refusal: there is none.
        """
        tasks = self.catalogue.tasks
        if name in tasks:
            return tasks[name]
        there = f"the tasks are {listing(tasks)}" if tasks else "there is none yet"
        refused = f"{name}.safetensors" in self.catalogue.refused
        why = "; its file was refused: GET /tasks says why" if refused else near(name, tasks) or f"; {there}"
        raise Refusal(404, f"there is no task {quoted(name)}{why}")

    async def answer(self, task: ServedTask, data: bytes, top: int | None, every: bool) -> dict[str, Any]:
        """Returns the answer for the bytes of an image file.

        Raises:
            Refusal: it is no image that the task can take.
        """
        threads, loop = self.start(), asyncio.get_running_loop()
        image = await loop.run_in_executor(threads.readers, task.read, data, self.settings.max_pixels)
        found = await asyncio.wrap_future(threads.batcher.submit((task, image)))
        return task.row(found, top, every)

    def run(self, work: Sequence[Work]) -> list[RowAnswer]:
        """Computes one batch of images of any tasks."""
        start = time.perf_counter()
        outputs = self.catalogue.base.predict([image for _, image in work], [task.held for task, _ in work])
        answers = outputs.decoded()
        self.counters.batches.add()
        self.counters.batch_rows.add(len(work))
        self.counters.batch_seconds.add(time.perf_counter() - start)
        for path in outputs.paths:
            self.counters.rows.add(path)
        return answers

    @property
    def fault(self) -> str:
        """What keeps the server from answering; "" where nothing does."""
        threads = self._threads
        return "" if threads is None or threads.are_alive else "a thread of the server has ended; restart it"

    def gauges(self) -> dict[str, tuple[str, float]]:
        """Returns what is now, for `Counters.text`."""
        threads = self._threads
        return {
            "petl_in_flight": ("Requests that are being answered.", self.in_flight),
            "petl_queue": ("Images that wait for their batch.", 0 if threads is None else len(threads.batcher)),
            "petl_tasks": ("Tasks that are served.", len(self.catalogue.tasks)),
            "petl_refused_files": ("Files that were refused.", len(self.catalogue.refused)),
            "petl_replaced": ("How often another file took a task's place.", self.catalogue.replaced),
        }


class _Threads:
    """The threads of a running service."""

    def __init__(self, service: Service) -> None:
        settings = service.settings
        self.service, self._end = service, threading.Event()
        self.readers = ThreadPoolExecutor(os.cpu_count() or 1, "petl-images")
        self.batcher = Batcher(
            service.run,
            most=settings.max_batch,
            wait_s=settings.max_wait_ms / 1000,
            expected=lambda: service.in_flight,
            rest=give_memory_back,
        )
        self._watcher = threading.Thread(target=self._watch, name="petl-folder", daemon=True)
        self.batcher.start()
        self._watcher.start()

    @property
    def are_alive(self) -> bool:
        return self.batcher.is_alive and self._watcher.is_alive()

    def _watch(self) -> None:
        while not self._end.wait(self.service.settings.poll_s):
            try:
                self.service.catalogue.update()
            except Exception:
                log.exception("looking at the folder failed; the tasks stay as they are")

    def stop(self) -> None:
        self._end.set()
        self.readers.shutdown(wait=True)
        self.batcher.stop()
        self._watcher.join()


def best_device() -> torch.device:
    """Returns the accelerator where there is one, else the CPU."""
    return (torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None) or torch.device(
        "cpu"
    )


def refuse_missing_packages() -> None:
    """Raises a StateError where the packages of the extra ``serve`` aren't installed."""
    try:
        import fastapi
        import python_multipart
        import uvicorn
    except ImportError as error:
        raise StateError(
            f'petl serve needs fastapi and uvicorn ({error.name} is missing): pip install "petl-vision[serve]"'
        ) from error
    del fastapi, python_multipart, uvicorn
