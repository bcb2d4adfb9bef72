"""Which objective a user means: by its name, an object with options, a callable, or, where there is no doubt, by the targets."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from petl.errors import DataError, PetlError, near
from petl.objectives.classification import Classification
from petl.objectives.measured_loss import MeasuredTask
from petl.objectives.metric_learning import MetricLearning
from petl.objectives.multilabel import Multilabel
from petl.objectives.ordinal import Ordinal
from petl.objectives.own_loss import OwnLoss
from petl.objectives.protocol import Task
from petl.objectives.regression import Regression

TASKS_BY_NAME: dict[str, type[Task]] = {
    task.name: task for task in (Classification, Multilabel, Regression, Ordinal, MetricLearning)
}


def task_for(objective: Any, recorded: str | None = None) -> Task | None:
    """Returns the task that is meant by ``objective=``; None where only the targets can tell.

    ``recorded`` is the task in the model's record: a model that was trained for a regression is one.

    Raises:
        PetlError: it is no name, object or callable.

    >>> task_for("ordinal").metrics[1], task_for(None)
    ('mean_absolute_error', None)
    """
    if objective is None:
        known = TASKS_BY_NAME.get(recorded or "")
        return None if known in (None, Classification) else known()  # type: ignore[misc]  # not None here
    if isinstance(objective, type) and issubclass(objective, Task) and objective is not OwnLoss:
        return objective()
    if isinstance(objective, str) and objective in TASKS_BY_NAME:
        return TASKS_BY_NAME[objective]()
    if isinstance(objective, OwnLoss) and objective.measure is not None:
        measure = task_for(objective.measure)
        if measure is None or isinstance(measure, OwnLoss):
            raise PetlError(f"measure={objective.measure!r}; expected one of {', '.join(map(repr, TASKS_BY_NAME))}")
        return MeasuredTask(objective, measure)
    if isinstance(objective, Task):
        return objective
    if callable(objective) and not isinstance(objective, type):
        return OwnLoss(objective)
    hint = near(objective, TASKS_BY_NAME) if isinstance(objective, str) else ""
    raise PetlError(
        f"objective={objective!r}; expected one of {', '.join(map(repr, TASKS_BY_NAME))}, an object such as petl.Regression(), "
        f"or a callable loss(outputs, targets, batch){hint}"
    )


# what a dataset's targets are -> tasks that are trained on such targets
TASKS_OF_TARGETS = {
    "classification": ("classification", "ordinal", "metric"),
    "multilabel": ("multilabel",),
    "regression": ("regression", "multilabel"),  # columns of 0 and 1 are numbers, too
}


def task_of(objective: Any, recorded: str | None, of_data: str | None) -> Task | None:
    """Returns the task that is meant: by ``objective=``, else by the model's record, else by the dataset's own targets.

    ``of_data`` is what the dataset says of its targets (`petl.data.dataset_tasks`). None is returned where only they can tell.

    Raises:
        DataError: the model was trained for something else than the data has.

    >>> task_of(None, None, "regression").monitor
    'r2'
    """
    if objective is not None or of_data is None:
        return task_for(objective, recorded)
    if recorded not in TASKS_BY_NAME:
        return task_for(None if of_data == "classification" else of_data)
    if recorded not in TASKS_OF_TARGETS[of_data]:
        kinds = {"classification": "classes", "multilabel": "several labels", "regression": "numbers"}
        raise DataError(
            f"the model's outputs are those of the task {recorded!r}, and the targets of the data are {kinds[of_data]}; "
            f"pass data with targets of its kind, or say what the outputs are to mean: objective={of_data!r}"
        )
    return task_for(None, recorded)


def names_outputs(task: Task | None, of_data: str | None) -> bool:
    """Returns whether the names that data has (classes, labels, columns of numbers) are those of the outputs for a task.

    >>> names_outputs(Ordinal(), "classification"), names_outputs(Ordinal(), "regression")
    (True, False)
    """
    if task is None or of_data in (None, "classification"):
        return True
    return task.task in TASKS_OF_TARGETS[of_data]


def inferred_task(targets: Tensor) -> Task:
    """Returns the task that targets [N, ...] belong to without a doubt: class numbers are a classification.

    Raises:
        DataError: they are something else, which the user has to name.
    """
    if targets.ndim == 1 and not targets.is_floating_point():
        return Classification()
    several = targets.ndim > 1
    what = (
        "objective='multilabel' for several labels of each image" if several else "objective='regression' for a number"
    )
    other = "objective='regression' for several numbers" if several else "objective='multilabel' for one label or none"
    raise DataError(
        f"got labels of shape {tuple(targets.shape)} and {targets.dtype} for {len(targets)} images; expected class numbers "
        f"[N]. If they mean something else, say what: {what}, {other}"
    )
