"""How well each method transfers, against full fine-tuning and against Hugging Face peft's LoRA.

    python benchmarks/transfer.py --out runs/transfer                        # the demo's backbone, scikit-learn's digits
    python benchmarks/transfer.py --out runs/transfer --data FOLDER --sets fashion_mnist emoji_noto \
        --weights tf_efficientnet_lite0.safetensors vit_small_patch14_dinov2.safetensors \
        --set vit_small_patch14_dinov2:epochs=3 vit_small_patch14_dinov2:precision=bf16
    python benchmarks/transfer.py --out runs/transfer --report docs/results.md

``FOLDER`` holds npz files with ``images`` (uint8, NHWC), ``labels``, ``split`` (0 train, 1 test) and ``classes``. Every line
of the table is trained by the same loop, `petl.fit`, with the same images in the same order, epochs, batch size and schedule;
its learning rate is the best of three on a hold-out of the training images. One JSON line per result goes to ``results.jsonl``
in the folder of ``--out``: a run that was stopped goes on where it was. With one thread (the default) the CPU seconds hardly
depend on what else the machine does, and one process per backbone can run beside the other: ``--only NAME``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

import petl
from benchmarks.transfer.data import Backbone, Pictures, backbones, parted, pictures
from benchmarks.transfer.report import write
from benchmarks.transfer.rows import Row, logits, reloaded, rows, saved_bytes, trained_numbers


@dataclass(frozen=True)
class Plan:
    """How much work each line of the table gets."""

    epochs: int = 4
    batch_size: int = 16
    train: int = 1000
    test: int = 1000
    search_epochs: int = 2
    search_train: int = 256
    search_test: int = 160
    threads: int = 1
    precision: str = "no"


class Results:
    """JSON lines in a file; what is there already isn't measured again."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "results.jsonl"

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def find(self, **key: Any) -> dict[str, Any] | None:
        fits = (line for line in self.read() if all(line.get(name) == value for name, value in key.items()))
        return next(fits, None)

    def add(self, line: dict[str, Any]) -> dict[str, Any]:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
        return line


@dataclass(frozen=True)
class Task:
    """One backbone on one data set."""

    backbone: Backbone
    pictures: Pictures
    plan: Plan
    seed: int

    @property
    def classes(self) -> int:
        return len(self.pictures.classes)

    @property
    def gray(self) -> bool:
        return self.pictures.images.shape[-1] == 1

    def model(self, row: Row) -> nn.Module:
        """The backbone with the row's method on it; the same seed gives every row the same new classifier."""
        base = self.backbone.build()
        torch.manual_seed(self.seed)
        return row.apply(base, self.classes)

    @cached_property
    def key(self) -> dict[str, Any]:
        return {"backbone": self.backbone.name, "data": self.pictures.name, "seed": self.seed}

    @cached_property
    def kept(self) -> dict[tuple[int, int], TensorDataset]:
        """Images by (split, channels), so that they are enlarged once."""
        return {}

    def images(self, model: nn.Module, split: int) -> TensorDataset:
        place = (split, petl.in_chans(model))
        if place not in self.kept:
            chosen = self.pictures.chosen(split, (self.plan.train, self.plan.test)[split], seed=0)
            self.kept[place] = self.pictures.tensors(chosen, self.backbone.pipeline(model))
        return self.kept[place]


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


def tasks(args: argparse.Namespace) -> Iterator[Task]:
    """Every backbone on every data set, data sets first in turn."""
    for found in pictures(args.data, args.sets):
        for backbone in backbones(args.weights):
            if not args.only or backbone.name in args.only:
                yield from (Task(backbone, found, plan(args, backbone.name), seed) for seed in args.seeds)


def plan(args: argparse.Namespace, backbone: str) -> Plan:
    """The work per line; `--epochs`, `--precision` and the like may say it for one backbone: ``NAME=VALUE``."""
    work = Plan()
    for word in args.set:
        key, value = word.rsplit("=", 1)
        owner, _, field = key.rpartition(":")
        if owner in ("", backbone):
            work = replace(work, **{field: type(getattr(work, field))(value)})
    return work


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for results.jsonl")
    parser.add_argument("--data", type=Path, help="folder with npz files; scikit-learn's digits without it")
    parser.add_argument("--sets", nargs="*", default=[], help="names of npz files; all")
    parser.add_argument("--weights", type=Path, nargs="*", default=[], help="safetensors files named as timm's models")
    parser.add_argument("--only", nargs="*", default=[], help="backbones to run, of those given")
    parser.add_argument("--rows", nargs="*", default=[], help="rows to run, by name; all")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--rates-from", metavar="SET", help="take the learning rates that were chosen on this data set")
    parser.add_argument("--set", nargs="*", default=[], help=f"work per row: [BACKBONE:]KEY=VALUE; {Plan()}")
    parser.add_argument("--report", type=Path, help="only write the table of the results to this file")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    results = Results(args.out)
    if args.report:
        return write(results.read(), args.report)
    for task in tasks(args):
        torch.set_num_threads(task.plan.threads)
        for row in rows(task.backbone.build(), gray=task.gray):
            if not args.rows or row.name in args.rows:
                run(task, row, results, args.rates_from)


if __name__ == "__main__":
    main()
