"""What `petl.compare` chooses in a third of the time of the full grid, and how far that is from the grid's best.

    python -m benchmarks.guidance.compare --data FOLDER --keep grids --out compare.json

FOLDER has npz files as benchmarks/transfer/data.py reads them; without it, scikit-learn's digits. The grid trains every setting
to the last rung's epochs, on the same images and with the same schedule; its time is that of these trainings and of measuring
them on the hold-out. Accuracies are on test images that nobody chose by. ``--keep`` keeps the grid for the next call.
"""

from __future__ import annotations

import argparse
import hashlib
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
from petl.trials.choosing import Standing, winner
from petl.trials.parts import open_parts
from petl.trials.plan import fixed_plan
from petl.trials.settings import FACTORS, settings_for
from petl.trials.trial import Materials, TrialRun, carried_out
from petl.trials.workshop import file_name

METHODS = ("norm", "lora", "full")
MARGINS = {"one standard error": None, "margin=0.01": 0.01, "margin=0": 0.0}
GRID_OF = ("images", "test", "size", "epochs", "batch_size", "methods", "seed")


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
    parser.add_argument("--seed", type=int, default=0, help="of the images and the trainings")
    parser.add_argument(
        "--share", type=float, default=1 / 3, help="of the grid's time, for compare; 0 for the grid alone"
    )
    parser.add_argument("--keep", type=Path, help="folder for grids: the next call takes them from there")
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
        images.tensors(images.chosen(split, count, asked.seed), pipeline)
        for split, count in enumerate((asked.images, asked.test))
    )
    rows = kept_grid(model, images.name, data, asked)
    seconds = sum(row["seconds"] for row in rows.values())
    print(f"{images.name}: the grid of {len(rows)} settings took {seconds:.0f} s", flush=True)
    result = {"images": images.name, "grid_seconds": seconds, "grid": told(rows)}
    if not asked.share:
        return result
    options = {"epochs": asked.epochs, "batch_size": asked.batch_size, "seed": asked.seed}
    with tempfile.TemporaryDirectory() as folder:
        comparison = petl.compare(model, data, list(asked.methods), seconds * asked.share, folder=folder, **options)
        result |= {"picks": picks(rows, comparison, Path(folder), data[1], asked.size)}
    print(json.dumps(result, indent=1), comparison, sep="\n", flush=True)
    return {**result, "comparison": comparison.to_json()}


def told(rows: dict[str, Any]) -> dict[str, Any]:
    """Each setting's numbers, the best on the test images, and what the grid chooses by its own hold-out."""
    means = {name: {key: value for key, value in row.items() if key != "scores"} for name, row in rows.items()}
    best, own = best_of(rows), max(rows, key=lambda name: (rows[name]["hold_out"], -rows[name]["loss"]))
    return {"settings": means, "best": best, "own_choice": own, "own_choice_behind": behind(rows, own)}


def best_of(rows: dict[str, Any]) -> str:
    return max(rows, key=lambda name: rows[name]["test"])


def behind(rows: dict[str, Any], name: str) -> dict[str, float]:
    """How far a setting is behind the grid's best on the test images, both trained to the end, with the paired error."""
    gap = torch.tensor(rows[best_of(rows)]["scores"]) - torch.tensor(rows[name]["scores"])
    return {"mean": float(gap.mean()), "error": standard_error(gap)}


def picks(
    rows: dict[str, Any], comparison: petl.Comparison, folder: Path, test: Any, size: int
) -> dict[str, dict[str, Any]]:
    """What each rule chooses by the comparison: the setting at full length, and the delta that the comparison leaves."""
    final = [row for row in comparison.rows if row.end in ("winner", "finalist", "closed form")]
    ranked = [Standing(row.name, row.accuracy or 0, row.gap or 0, row.gap_error or 0) for row in final]
    ranked.sort(key=lambda one: one.gap)
    found = {}
    for rule, margin in MARGINS.items():
        name = winner(ranked, {row.name: row.trainable for row in final}, margin)
        trained = petl.load(folder / f"{file_name(name)}.safetensors", Backbone().build(size))
        left = float(per_image_of(petl.evaluate(trained, test, progress=False)).scores.mean())
        found[rule] = {"pick": name, "behind": behind(rows, name), "accuracy_of_its_delta": left}
    return found


def kept_grid(model: nn.Module, name: str, data: Any, asked: argparse.Namespace) -> dict[str, Any]:
    """The grid, from the file of an earlier call with the same arguments where there is one."""
    if asked.keep is None:
        return grid(model, data, asked)
    key = json.dumps({"set": name, **{word: getattr(asked, word) for word in GRID_OF}}, sort_keys=True)
    file = asked.keep / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"
    if not file.exists():
        asked.keep.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"asked": json.loads(key), "rows": grid(model, data, asked)}))
    return json.loads(file.read_text())["rows"]


def grid(model: nn.Module, data: Any, asked: argparse.Namespace) -> dict[str, Any]:
    """Every setting trained to the end: seconds, its score on hold-out and test images, and the test scores of each image."""
    parts = open_parts(model, data, objective=None, images=None, seed=asked.seed)
    materials = Materials(model, parts, {"objective": None, "batch_size": asked.batch_size, "workers": 0})
    rungs = fixed_plan(asked.epochs, -(-len(parts.folds[0][0]) // asked.batch_size), 1).rungs
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for setting in settings_for(model, list(asked.methods), FACTORS, parts.outputs):
            place = str(Path(folder) / str(setting.number))
            outcome = carried_out(
                materials, TrialRun(setting, asked.seed, 0, asked.epochs, rungs, place, torch.get_num_threads())
            )
            if outcome.failed:
                raise SystemExit(f"{setting.name}: {outcome.failed}")
            trained = petl.load(f"{place}/delta.safetensors", Backbone().build(asked.size))
            scores = per_image_of(petl.evaluate(trained, parts.told, progress=False)).scores
            row = {"hold_out": sum(outcome.scores) / len(outcome.scores), "loss": outcome.loss}
            rows[setting.name] = {
                **row,
                "test": float(scores.mean()),
                "seconds": outcome.seconds,
                "scores": scores.tolist(),
            }
            print(
                f"  {setting.name}: hold-out {row['hold_out']:.3f}, test {scores.mean():.3f}, {outcome.seconds:.1f} s",
                flush=True,
            )
    return rows


if __name__ == "__main__":
    main()
