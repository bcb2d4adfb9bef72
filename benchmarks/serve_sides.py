"""The two servers that `benchmarks.serve` compares: one backbone with many tasks, and one merged model for each task."""

from __future__ import annotations

import copy
import ctypes
import gc
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import petl
from benchmarks.tasks import backbone

READY = "ready"  # what a server prints, with its port


@dataclass(eq=False)
class MergedTask:
    """A merged model, with what the server asks of a task."""

    name: str
    model: Any
    description: dict[str, Any]


class MergedModels:
    """What the server asks of `petl.Tasks`, answered by one merged model for each task: rows are grouped by their model."""

    def __init__(self, base: Any) -> None:
        self.base, self.models = base, {}

    def to(self, device: Any) -> MergedModels:
        return self

    def __contains__(self, name: str) -> bool:
        return name in self.models

    def add(self, name: str, path: Path) -> None:
        model = petl.load(path, copy.deepcopy(self.base))
        labels = petl.read(path)["labels"]
        self.models[name] = MergedTask(name, petl.merge(model).eval(), {"task": "classification", "labels": labels})

    def hold(self, name: str) -> MergedTask:
        return self.models[name]

    @torch.no_grad()
    def predict(self, images: Any, tasks: Any) -> Any:
        from petl.tasks.outputs import RowOutputs

        tasks = [tasks] if isinstance(tasks, MergedTask) else tasks
        rows: dict[MergedTask, list[int]] = {}
        for row, task in enumerate(tasks):
            rows.setdefault(task, []).append(row)
        found: dict[int, Any] = {}
        for task, own in rows.items():
            found |= dict(zip(own, task.model(torch.stack([images[row] for row in own])), strict=True))
        return RowOutputs([found[row] for row in range(len(tasks))], tasks, ["merged"] * len(tasks), {})


def run_server(side: str, folder: str, model: str, max_batch: int) -> None:
    """Serves one side at a free port, which it prints; in a process of its own."""
    import socket

    import uvicorn

    import petl.serving.catalogue
    from petl.serving import app

    torch.set_num_threads(1)
    if side == "merged":
        petl.serving.catalogue.Tasks = MergedModels  # type: ignore[misc,assignment]  # stands in for it
    site = app(folder, backbone(model), device="cpu", max_batch=max_batch, poll_s=0.5)
    while len(site.state.service.catalogue.tasks) < len([*Path(folder).glob("*.safetensors")]):
        time.sleep(0.5)
        site.state.service.catalogue.update()
    if side == "merged":
        site.state.service.catalogue.base.base = None
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    with socket.create_server(("127.0.0.1", 0)) as own:
        print(READY, own.getsockname()[1], flush=True)
        uvicorn.Server(uvicorn.Config(site, log_level="warning", access_log=False)).run(sockets=[own])
