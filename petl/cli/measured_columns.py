"""Which columns of a table ``petl eval`` measures a delta on, and which tasks it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petl.data.dataset_tasks import dataset_task
from petl.data.table_columns import TARGET_ROLES
from petl.data.table_files import is_table_file, read_table
from petl.errors import DataError, DeltaError
from petl.objectives.choice import TASKS_OF_TARGETS
from petl.prediction.meaning import known_task

WAYS = {
    "regression": "a table whose columns of numbers are named: --data targets=age",
    "multilabel": "a table with several labels: --data labels=tags",
}


def columns_of_labels(header: Mapping[str, Any], source: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a table: where none says which column has the targets, those that the delta's outputs are called by.

    ``ages.csv`` may have other columns of usual names, which were not what the delta was trained on.

    Raises:
        DataError: the delta's task is one that only tables have targets for, and the source is none.
    """
    if known_task(header.get("task")) in WAYS and not is_table_file(source):
        raise _other_targets(header["task"], source, "classification")
    role = {"regression": "targets", "multilabel": "labels"}.get(header.get("task") or "")
    if role is None or not is_table_file(source) or not Path(source).is_file() or {*options} & {*TARGET_ROLES}:
        return dict(options)
    names, quantiles = header["labels"] or [], header.get("quantiles") or []
    if quantiles and len(names) % len(quantiles) == 0:
        names = [name.rpartition(" q")[0] for name in names[:: len(quantiles)]]
    columns = read_table(Path(source), options.get("encoding")).columns
    return {**options, role: names} if names and all(name in columns for name in names) else dict(options)


def measured_classes(header: Mapping[str, Any]) -> list[str] | None:
    """Returns the class or label names that the data has to have; None where the outputs stand for numbers."""
    return None if known_task(header.get("task")) in ("regression", "metric") else header["labels"]


def refuse_other_tasks(header: Mapping[str, Any], outputs: int | None, images: Any, source: str) -> None:
    """Refuses data whose targets aren't of the delta's task, and a classification of one output, which is always right.

    Raises:
        DataError, DeltaError: for one of these.
    """
    task, of_data = known_task(header.get("task")), dataset_task(images) or "classification"
    if outputs == 1 and task in (None, "classification") and of_data == "classification":
        raise DeltaError(
            "petl eval measures a classification, and this delta's model has one output, which is right whatever it says"
        )
    if task is None or task in TASKS_OF_TARGETS[of_data]:
        return
    raise _other_targets(task, source, of_data)


def _other_targets(task: str, source: str, of_data: str) -> DataError:
    kinds = {"classification": "a class", "multilabel": "several labels", "regression": "numbers"}
    expected = WAYS.get(task, "folders of classes, or a table with a column of them: --data label=name")
    return DataError(
        f"the delta's task is {task}, and {source} has {kinds[of_data]} for each image; expected {expected}"
    )
