"""What the speed benchmark measures: bytes for the backward, seconds of a step, seconds of an inference, peak memory."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.live_bytes import live_bytes

WARM_UP = 2  # steps before anything is timed; the first ones compile and fill caches


@dataclass(frozen=True)
class Work:
    """What every side is given: one batch and its labels, under autocast or compiled where asked for."""

    batch: int = 8
    size: int = 224
    autocast: bool = False
    compile: bool = False
    threads: int = 2

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def variant(self) -> str:
        kinds = [("bf16", self.autocast), ("compile", self.compile)]
        return "-".join([self.device.type, *(name for name, on in kinds if on)])

    def batch_of(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        chance = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch, 3, self.size, self.size, generator=chance)
        classes = int(getattr(model, "num_classes", 1000))
        return images.to(self.device), torch.randint(classes, (self.batch,), generator=chance).to(self.device)

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)

    def ready(self, model: nn.Module) -> nn.Module:
        model = model.to(self.device)
        return torch.compile(model, dynamic=False) if self.compile else model  # type: ignore[return-value]


@dataclass
class Steps:
    """One side at work: its training steps and its inference on the one batch."""

    model: nn.Module
    work: Work

    def __post_init__(self) -> None:
        self.run = self.work.ready(self.model)
        self.images, self.labels = self.work.batch_of(self.model)

    def loss(self) -> Tensor:
        with self.work.precision():
            return F.cross_entropy(self.run(self.images).float(), self.labels)

    def step(self) -> None:
        """Forward and backward; gradients are dropped, no optimizer runs."""
        self.loss().backward()
        for parameter in self.model.parameters():
            parameter.grad = None

    @torch.no_grad()
    def infer(self) -> None:
        with self.work.precision():
            self.run(self.images)

    def bytes(self) -> int | None:
        """Bytes alive for the backward; a compiled forward doesn't show its storages."""
        return None if self.work.compile else live_bytes(self.model, self.loss, (self.images, self.labels))


def interleaved(calls: Mapping[str, Callable[[], None]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each call, ``repeats`` times in turn; every round begins with another one."""
    names, seconds = list(calls), {name: [] for name in calls}
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    for turn in range(repeats):
        for i in range(len(names)):
            name = names[(i + turn) % len(names)]
            seconds[name].append(timed(calls[name], device))
    return seconds


def timed(call: Callable[[], None], device: torch.device) -> float:
    """Seconds of one call: by events on a GPU, by the clock elsewhere."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def gpu_peak(step: Callable[[], None]) -> int:
    """Bytes that one step allocates at most, over what was there before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def in_child(arguments: list[str]) -> Any:
    """What this benchmark prints as JSON in a process of its own, with these arguments."""
    # one arena, and large blocks given back at once: the resident size then follows what is alive
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": "1048576",
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", *arguments], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed in its own process:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def compiling(on: bool) -> Iterator[None]:
    """Every side compiles anew; one that would silently fall back to eager raises."""
    if not on:
        yield
        return
    import torch._dynamo as dynamo

    limit = "recompile_limit" if hasattr(dynamo.config, "recompile_limit") else "cache_size_limit"
    changes: dict[str, Any] = {limit: 256, "fail_on_recompile_limit_hit": True}
    with dynamo.config.patch(**{k: v for k, v in changes.items() if hasattr(dynamo.config, k)}):
        yield
