"""The metrics and the learning curves of a report, as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import TensorDataset

from petl.errors import DataError, PetlError
from petl.extraction.undisturbed import rng_restored
from petl.findings import json_value
from petl.format.texts import parsed_json
from petl.report.answers import TASK_OF_KIND
from petl.report.images import ReportImages
from petl.training.evaluation import evaluate
from petl.training.history import History
from petl.training.run_file import read_run_file
from petl.wrapping.lookup import record

MOST_LABELS = 30


def metric_facts(model: nn.Module, images: ReportImages, own: bool, batch_size: int) -> dict[str, Any]:
    """Returns each figure of `petl.evaluate` with its standard error and what an answer without the image reaches.

    ``own`` says whether the model's outputs are for these targets.
    """
    if images.y is None:
        return {"why_not": "the images have no labels to measure with"}
    wrapped = record(model)
    task = getattr(wrapped, "task", None)
    if not own and task != "metric":
        return {"why_not": "the model's outputs aren't for these targets"}
    objective = None if task else TASK_OF_KIND.get(images.kind)
    try:
        data = TensorDataset(images.pictures, images.y)
        with rng_restored(data):
            found = evaluate(model, data, batch_size=batch_size, objective=objective, progress=False)
    except PetlError as error:
        return {"why_not": str(error)}
    figures = [
        {"name": name, "value": value, "error": found.standard_errors.get(name), "baseline": found.baseline.get(name)}
        for name, value in found.scalars.items()
    ]
    lists = {name: value for name, value in dataclasses.asdict(found).items() if _is_table(value)}
    per = next(iter(lists.values()), [])
    return {
        "figures": json_value(figures),
        "rule": found.baseline_rule,
        "per_label": _named(json_value(per), images.classes)[:MOST_LABELS],
        "labels": len(per),
    }


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _named(rows: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    """Returns the rows with the names of classes in place of numbers; the weakest first, where they have an F1."""
    key = next((key for key in ("label", "name", "class") if rows and key in rows[0]), None)
    if key is not None and len(names) == len(rows):
        rows = [{**row, key: name} for row, name in zip(rows, names, strict=True)]
    return sorted(rows, key=lambda row: row.get("f1") or 0) if len(rows) > MOST_LABELS else rows


def history_of(history: Any, delta: Path | None) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Returns a training's history and the whole file of its run, each None where it isn't known.

    ``history`` is a History, a dict of one, or the path of a ``.history.json``; without it, the file beside the delta is read.

    Raises:
        DataError: ``history`` is none of these.
    """
    if history is None:
        run = read_run_file(delta) if delta is not None else None
        return _rows_of(run.get("history") if run else None), run
    if isinstance(history, History):
        return json_value({**vars(history), "rows": history.rows, "best": history.best}), None
    if isinstance(history, (str, Path)):
        try:
            history = parsed_json(Path(history).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(
                f"history={history} can't be read ({error}); expected a file such as pets.history.json"
            ) from error
    run = history if isinstance(history, Mapping) and isinstance(history.get("history"), Mapping) else None
    found = _rows_of(run["history"] if run is not None else history)
    if found is None:
        raise DataError("history holds no rows of epochs; expected what petl.fit returned, or its .history.json")
    return found, None if run is None else dict(run)


def _rows_of(content: Any) -> dict[str, Any] | None:
    rows = content.get("rows") if isinstance(content, Mapping) else None
    good = isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows)
    return json_value(dict(content)) if good else None


def curve_facts(history: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the epochs of a training: losses, the figure that chose the best epoch, and the learning rate."""
    rows = (history or {}).get("rows") or []
    if history is None or not rows:
        return {"why_not": "no history of the training was given or found beside the delta"}
    monitor = str(history.get("monitor") or "accuracy")
    names = [
        name for name in dict.fromkeys(("epoch", "train_loss", "loss", monitor, "lr", "seconds")) if _any(name, rows)
    ]
    return {
        "monitor": monitor,
        "best_epoch": (history.get("best") or {}).get("epoch"),
        "columns": names,
        "rows": [{name: row.get(name) for name in names} for row in rows],
        "notes": [note for note in history.get("notes") or [] if isinstance(note, str)],
    }


def _any(name: str, rows: list[Mapping[str, Any]]) -> bool:
    return any(isinstance(row.get(name), (int, float)) for row in rows)
