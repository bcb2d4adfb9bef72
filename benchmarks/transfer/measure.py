"""One row of the table: its learning rate is chosen, then it is trained and measured."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from torch import nn
from torch.utils.data import Dataset

import petl
from benchmarks.transfer.data import parted
from benchmarks.transfer.results import Results
from benchmarks.transfer.rows import Row, logits, reloaded, saved_bytes, trained_numbers
from benchmarks.transfer.work import Task


def fitted(task: Task, model: nn.Module, data: Dataset[Any], *, lr: float, epochs: int) -> dict[str, float]:
    """Train the model; the seconds that it took."""
    plan = task.plan
    wall, cpu = time.perf_counter(), time.process_time()
    petl.fit(
        model,
        data,
        epochs=epochs,
        lr=lr,
        batch_size=plan.batch_size,
        precision=plan.precision,  # type: ignore[arg-type]  # fit checks it
        seed=task.seed,
        progress=False,
    )
    return {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def searched(task: Task, row: Row, lr: float) -> dict[str, Any]:
    """Accuracy on a hold-out of the training images after a short training with this learning rate."""
    plan, model = task.plan, task.model(row)
    part, held = parted(task.images(model, split=0), plan.search_train, plan.search_test, task.seed)
    seconds = fitted(task, model, part, lr=lr, epochs=plan.search_epochs * row.times)
    return {"accuracy": accuracy(task, model, held), "images": len(part), "held": len(held), **seconds}


def measured(task: Task, row: Row, lr: float) -> dict[str, Any]:
    """Training on all training images with this rate, and the figures of the table."""
    model = task.model(row)
    train, test = task.images(model, split=0), task.images(model, split=1)
    seconds = fitted(task, model, train, lr=lr, epochs=task.plan.epochs * row.times)
    again = reloaded(model, task.backbone.build(), task.classes)
    some = test.tensors[0][:32]
    moved = float((logits(again, some) - logits(model, some)).abs().max())
    return {
        "accuracy": accuracy(task, model, test),
        "trainable": trained_numbers(model),
        "bytes": saved_bytes(model),
        "reload_difference": moved,
        "reload_accuracy": accuracy(task, again, test) if moved > 1e-3 else None,
        "images": len(train),
        "tested": len(test),
        **seconds,
    }


def accuracy(task: Task, model: nn.Module, data: Dataset[Any]) -> float:
    precision: Any = task.plan.precision
    return petl.evaluate(model, data, batch_size=32, precision=precision, progress=False).accuracy


def run(task: Task, row: Row, results: Results, rates_from: str | None) -> None:
    """Choose the rate, then measure; both only where the results don't have it yet."""
    settings = {**task.key, "row": row.name, "plan": asdict(task.plan)}
    if results.find(kind="result", **settings):
        return
    other = results.find(**{**task.key, "kind": "result", "data": rates_from, "row": row.name})
    tried = {} if other else {lr: rated(task, row, lr, results, settings) for lr in row.rates}
    best = other["lr"] if other else max(tried, key=lambda lr: tried[lr])
    results.add({"kind": "result", **settings, "lr": best, "tried": tried, **measured(task, row, best)})


def rated(task: Task, row: Row, lr: float, results: Results, settings: dict[str, Any]) -> float:
    line = results.find(kind="search", lr=lr, **settings)
    line = line or results.add({"kind": "search", **settings, "lr": lr, **searched(task, row, lr)})
    return line["accuracy"]
