"""What `petl.compare` chooses in a third of the time of the full grid, and how far that is from the grid's best.

    python -m benchmarks.guidance.compare --data FOLDER --out compare.json

FOLDER has npz files as benchmarks/transfer/data.py reads them; without it, scikit-learn's digits. The grid trains every setting
to the last rung's epochs, on the same images and with the same schedule. Accuracies are on test images that nobody chose by.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import petl
from benchmarks.transfer.data import Backbone, Pictures, pictures
from petl.evidence.intervals import standard_error
from petl.objectives.measured import per_image_of
from petl.trials.parts import open_parts
from petl.trials.plan import fixed_plan
from petl.trials.settings import FACTORS, settings_for
from petl.trials.trial import Materials, TrialRun, carried_out

METHODS = ("norm", "lora", "full")


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="what petl.compare chooses, beside the full grid")
    parser.add_argument("--data", type=Path, help="folder of npz files; without it, scikit-learn's digits")
    parser.add_argument("--only", nargs="*", default=[], help="names of files")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--test", type=int, default=600)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--share", type=float, default=1 / 3, help="of the grid's time, for compare")
    parser.add_argument(
        "--cpu-clock", action="store_true", help="count CPU seconds: on a machine that is busy otherwise"
    )
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args(words)
    if asked.cpu_clock:  # one process, so that these are its seconds on a quiet machine
        time.perf_counter = time.process_time
    model = Backbone().build(asked.size)
    found = [measured(model, one, asked) for one in pictures(asked.data, asked.only)]
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")


def measured(model: nn.Module, images: Pictures, asked: argparse.Namespace) -> dict[str, Any]:
    """The grid and the comparison on one set of images, as plain values; prints them, too."""
    pipeline = petl.data.pipeline(model, size=asked.size)
    data = tuple(
        images.tensors(images.chosen(split, count, 0), pipeline)
        for split, count in enumerate((asked.images, asked.test))
    )
    (rows, scores), wall = grid(model, data, asked)
    print(f"{images.name}: the grid of {len(rows)} settings took {wall:.0f} s", flush=True)
    options = {"epochs": asked.epochs, "batch_size": asked.batch_size}
    comparison = petl.compare(model, data, list(asked.methods), wall * asked.share, **options)
    result = {"images": images.name, "grid_seconds": wall, "grid": rows, **beside(rows, scores, comparison)}
    print(json.dumps(result, indent=1), comparison, sep="\n", flush=True)
    return {**result, "comparison": comparison.to_json()}


def beside(rows: dict[str, Any], scores: dict[str, torch.Tensor], comparison: petl.Comparison) -> dict[str, Any]:
    """The grid's best on the test images, its own choice by the hold-out, and what was chosen in less time."""
    oracle = max(rows, key=lambda name: rows[name]["test"])
    chosen = max(rows, key=lambda name: (rows[name]["hold_out"], -rows[name]["loss"]))
    gap = scores[oracle] - scores[comparison.best_name]
    return {
        "best": oracle,
        "chosen_by_hold_out": chosen,
        "test": {
            "best": rows[oracle]["test"],
            "compare": comparison.held_out.accuracy,
            "error": comparison.held_out.error,
        },
        "same_setting_at_full_length_behind": {"mean": float(gap.mean()), "error": standard_error(gap)},
    }


def grid(
    model: nn.Module, data: Any, asked: argparse.Namespace
) -> tuple[tuple[dict[str, dict[str, float]], dict[str, torch.Tensor]], float]:
    """Every setting trained to the end: its score on hold-out and test images, the test scores of each image, and seconds."""
    start = time.perf_counter()
    parts = open_parts(model, data, objective=None, images=None, seed=0)
    materials = Materials(model, parts, {"objective": None, "batch_size": asked.batch_size, "workers": 0})
    updates = -(-len(parts.folds[0][0]) // asked.batch_size)
    rungs = fixed_plan(asked.epochs, updates, 1).rungs
    rows, scores = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for setting in settings_for(model, list(asked.methods), FACTORS, parts.outputs):
            place = str(Path(folder) / str(setting.number))
            trial = TrialRun(setting, 0, 0, asked.epochs, rungs, place, torch.get_num_threads())
            outcome = carried_out(materials, trial)
            if outcome.failed:
                raise SystemExit(f"{setting.name}: {outcome.failed}")
            trained = petl.load(f"{place}/delta.safetensors", Backbone().build(asked.size))
            scores[setting.name] = per_image_of(petl.evaluate(trained, parts.told, progress=False)).scores
            hold_out, test = sum(outcome.scores) / len(outcome.scores), float(scores[setting.name].mean())
            rows[setting.name] = {"hold_out": hold_out, "loss": outcome.loss, "test": test, "seconds": outcome.seconds}
            print(f"  {setting.name}: hold-out {hold_out:.3f}, test {test:.3f}, {outcome.seconds:.1f} s", flush=True)
    return (rows, scores), time.perf_counter() - start


if __name__ == "__main__":
    main()
