"""Many tasks on one backbone: what each task takes, how long a switch is, and batches in which rows have different tasks.

    python -m benchmarks.tasks                                   # everything: about 15 minutes of one core
    python -m benchmarks.tasks --only mixed --model resnet50 --rounds 3
    python -m benchmarks.tasks --only memory --tasks 20

Random weights and images: neither changes the time. One thread, CPU seconds (`time.process_time`), so that other programs on the
machine count little; the sides of a comparison run in turns, and their medians are printed, with the median of the ratios to
one task's batch of the same rounds. Memory is that of a process of its own, before and after the tasks were added.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

import petl

METHODS: dict[str, Any] = {"lora": petl.LoRA(rank=8), "probe": petl.Probe(), "norm": petl.Norm()}
CLASSES = 10


def backbone(name: str) -> Any:
    torch.manual_seed(0)
    return timm.create_model(name).eval()


def delta(base: nn.Module, method: Any, folder: Path, number: int) -> Path:
    """Writes the delta of a task whose numbers are random, as after a training."""
    model = petl.wrap(copy.deepcopy(base), method, num_classes=CLASSES + number % 5)
    chance = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in petl.trainable(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=chance), alpha=0.01)
    return petl.save(model, folder / f"{number}.safetensors")


def resident() -> int:
    """The bytes of memory that this process has now, after what is free was given back to the system (Linux)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def many(name: str, method: str, count: int) -> dict[str, Any]:
    """The memory that each of many tasks takes, and seconds of adding and of switching; run in a process of its own."""
    torch.set_num_threads(1)
    base = backbone(name)
    with tempfile.TemporaryDirectory() as folder:
        paths = [delta(base, METHODS[method], Path(folder), number) for number in range(5)]
        tasks = petl.Tasks(base)
        for number in range(5):  # torch's own memory grows with the first ones
            tasks.add(f"warm {number}", paths[number])
        before, start = resident(), time.process_time()
        for number in range(count):
            tasks.add(f"task {number}", paths[number % 5])
        added = time.process_time() - start
        sizes = [path.stat().st_size for path in paths]
        return {
            "model": name,
            "method": method,
            "tasks": count,
            "delta_mb": round(sum(sizes) / len(sizes) / 1e6, 3),
            "mb_per_task": round((resident() - before) / count / 1e6, 3),
            "backbone_mb": round(sum(p.numel() * p.element_size() for p in base.parameters()) / 1e6, 1),
            "add_s": round(added / count, 2),
            "switch_ms": round(1000 * statistics.median(switches(tasks, count)), 4),
        }


def switches(tasks: petl.Tasks, count: int) -> Iterator[float]:
    """Seconds from one task's model to the next one's."""
    for number in range(10 * count):
        start = time.perf_counter()
        tasks.use(f"task {number * 7 % count}")
        _ = tasks.model
        yield time.perf_counter() - start


def in_own_process(name: str, method: str, count: int) -> dict[str, Any]:
    code = f"import json; from benchmarks.tasks import many; print(json.dumps(many({name!r}, {method!r}, {count})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peft_model(base: nn.Module, count: int) -> Any:
    """The same layers with peft's LoRA, one adapter for each task; its classifier can't differ by row."""
    import peft

    found = [n for n, m in base.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    layers = [n for n in found if n not in ("head", "fc")]
    config = peft.LoraConfig(r=8, lora_alpha=8, target_modules=layers, init_lora_weights=False)
    model = peft.get_peft_model(copy.deepcopy(base), config, adapter_name="task 0")
    for number in range(1, count):
        model.add_adapter(f"task {number}", config)
    return model.eval()


def sides(name: str, method: str, count: int, rows: int) -> dict[str, Callable[[], Any]]:
    """The ways to compute a batch of ``rows`` rows of each of ``count`` tasks, beside one task's batch of the same size."""
    base = backbone(name)
    tasks, size = several_tasks(base, method, count), base.pretrained_cfg["input_size"]
    x = torch.randn(count * rows, *size, generator=torch.Generator().manual_seed(0))
    names = [f"task {number % count}" for number in range(count * rows)]
    plain = petl.merge(petl.wrap(copy.deepcopy(base), "probe"))
    print(
        f"{name}, {method}: {tasks.explain(x, names)['task 0']}; largest difference to one by one {gap(tasks, x, names):.1e}"
    )
    found: dict[str, Callable[[], Any]] = {
        "one task, all rows": lambda: tasks["task 0"](x),
        "the plain backbone": lambda: plain(x),
        "Tasks.predict": lambda: tasks.predict(x, names),
        "loop over tasks": lambda: tasks.predict(x, names, exact=True),
    }
    return found | (pefts_sides(peft_model(base, count), x, names, count) if method == "lora" else {})


def several_tasks(base: nn.Module, method: str, count: int) -> petl.Tasks:
    """Tasks of so many deltas of one method."""
    tasks = petl.Tasks(base)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            tasks.add(f"task {number}", delta(base, METHODS[method], Path(folder), number))
    return tasks


def pefts_sides(foreign: Any, x: Tensor, names: list[str], count: int) -> dict[str, Callable[[], Any]]:
    """The two ways that peft has for the same batch."""

    def switching() -> None:
        for number in range(count):
            foreign.set_adapter(f"task {number}")
            foreign(x[number::count])

    return {"peft, adapter_names": lambda: foreign(x, adapter_names=names), "peft, loop over tasks": switching}


@torch.no_grad()
def gap(tasks: petl.Tasks, x: Tensor, names: list[str]) -> float:
    """The largest difference of any output from the task's own model on its rows, in units of that row's largest output."""
    one, other = tasks.predict(x, names), tasks.predict(x, names, exact=True)
    assert all(a.argmax() == b.argmax() for a, b in zip(one, other, strict=True))
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(one, other, strict=True))


@torch.no_grad()
def mixed(name: str, method: str, count: int, rows: int, rounds: int) -> dict[str, Any]:
    """Medians of CPU seconds of each side and of their ratios to one task's batch; all sides run in turn."""
    found = sides(name, method, count, rows)
    seconds: dict[str, list[float]] = {side: [] for side in found}
    for run in range(rounds + 1):
        for side, function in found.items():
            start = time.process_time()
            function()
            if run:  # the first is for caches
                seconds[side].append(time.process_time() - start)
    one = seconds["one task, all rows"]
    ratios = {side: [a / b for a, b in zip(values, one, strict=True)] for side, values in seconds.items()}
    return {
        "model": name,
        "method": method,
        "tasks": count,
        "rows_each": rows,
        "rounds": rounds,
        "seconds": {side: round(statistics.median(values), 3) for side, values in seconds.items()},
        "ratio": {side: round(statistics.median(values), 3) for side, values in ratios.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("memory", "mixed"))
    parser.add_argument("--model", nargs="+", default=["vit_small_patch16_224", "resnet50"])
    parser.add_argument("--method", nargs="+", choices=METHODS, default=["lora", "probe"])
    parser.add_argument("--tasks", type=int, help="how many; else 100 for memory, 8 for mixed batches")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for method in options.method:
        if options.only != "mixed":
            found.append(in_own_process(options.model[0], method, options.tasks or 100))
            print(json.dumps(found[-1], indent=1))
        for name in options.model if options.only != "memory" else []:
            found.append(mixed(name, method, options.tasks or 8, options.rows, options.rounds))
            print(json.dumps(found[-1], indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
