"""One row of the table: it is trained with petl's defaults, measured, saved and read again."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import petl
from benchmarks.transfer.peft_rows import optimizer, peft_lora
from benchmarks.transfer.results import Results, packed
from benchmarks.transfer.rows import PIXELS, Row
from benchmarks.transfer.work import Task
from petl.heads.closed_form import fitted_head

COMPARED = 32  # images whose logits are compared after reading the file again


def run(task: Task, row: Row, results: Results) -> None:
    """Measure the row where the results don't have it yet."""
    settings = {**task.key, "row": row.name, "plan": asdict(task.plan)}
    if not results.find(**settings):
        results.add({**settings, **(raw_pixels(task) if row.name == PIXELS else measured(task, row))})


def measured(task: Task, row: Row) -> dict[str, Any]:
    """Training on the images of the seed, and the figures of the table."""
    base = task.base()
    wall, cpu = time.perf_counter(), time.process_time()
    model, history = fitted(task, row, base)
    seconds = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    test = task.images(model, split=1)
    right = predicted_right(model, test, task.plan.precision)
    again, size = reloaded(model, task.base(), task.classes)
    some = test.tensors[0][:COMPARED]
    moved = float((logits(again, some) - logits(model, some)).abs().max())
    return {
        **_of(right),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "bytes": size,
        "reload_difference": moved,
        "reload_accuracy": _of(predicted_right(again, test, task.plan.precision))["accuracy"] if moved > 1e-3 else None,
        "images": len(task.images(model, split=0)),
        "epochs": history.epochs,
        "rates": history.rates,
        "head": history.head,
        "notes": history.notes,
        **seconds,
    }


def fitted(task: Task, row: Row, base: nn.Module) -> tuple[nn.Module, petl.History]:
    """The row's model, trained. The same seed gives every row the same images in the same order."""
    settings = {**task.plan.settings(row), "seed": task.seed, "progress": False}
    torch.manual_seed(task.seed)
    if row.peft:
        images = task.images(base, split=0)
        still = row.peft == "still"
        model = peft_lora(base, task.classes, images, still=still, precision=task.plan.precision)
        return model, petl.fit(model, images, optimizer=partial(optimizer, model), **settings)
    model = row.apply(base, task.classes)
    return model, petl.fit(model, task.images(model, split=0), **settings)


def raw_pixels(task: Task) -> dict[str, Any]:
    """Ridge regression on the pixels, its penalty chosen by leave-one-out: what needs no backbone."""
    (x, y), (test, labels) = task.pixels(0), task.pixels(1)
    cpu = time.process_time()
    head = fitted_head(x, y, task.classes, "ridge")
    seconds = {"cpu_seconds": time.process_time() - cpu}
    answers = (test.double() @ head.weight.T + head.bias).argmax(1)
    return {**_of(answers == labels), "trainable": head.weight.numel() + head.bias.numel(), "images": len(x), **seconds}


def predicted_right(model: nn.Module, data: TensorDataset, precision: str) -> Tensor:
    """Whether the class of each image is predicted, bool [n]."""
    images, labels = data.tensors
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        return torch.cat([logits(model, part).argmax(1) for part in images.split(COMPARED)]) == labels


def logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.eval()(images)


def _of(right: Tensor) -> dict[str, Any]:
    return {"accuracy": float(right.double().mean()), "tested": len(right), "right": packed(right)}


def reloaded(model: nn.Module, fresh: nn.Module, classes: int) -> tuple[nn.Module, int]:
    """What another process gets, the saved file on a fresh backbone, and how many bytes the file has."""
    with tempfile.TemporaryDirectory() as folder:
        if petl.record(model) is not None:
            path = petl.save(model, Path(folder) / "delta.safetensors")
            return petl.load(path, fresh), path.stat().st_size
        import peft

        model.save_pretrained(folder)  # type: ignore[operator]  # peft's
        fresh.reset_classifier(classes)  # type: ignore[operator]  # every timm model has it
        size = (Path(folder) / "adapter_model.safetensors").stat().st_size
        return peft.PeftModel.from_pretrained(fresh, folder), size  # type: ignore[arg-type]  # any nn.Module will do
