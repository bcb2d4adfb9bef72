"""Checks the description of a model's outputs: the labels of its classes, and its task."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterable, Mapping, Set
from typing import Any

from petl.errors import DeltaError, near
from petl.format.texts import LONGEST_TEXT, is_utf8, short_repr

TASKS = ("classification", "multilabel", "regression")


def label_texts(labels: Iterable[Any] | None) -> list[str] | None:
    """Returns the class names as texts, in their order; whole numbers become their digits.

    Raises:
        DeltaError: the labels have no order (a set), or one is no name.

    >>> label_texts(range(3)), label_texts(("cat", "dog"))
    (['0', '1', '2'], ['cat', 'dog'])
    """
    if labels is None:
        return None
    if isinstance(labels, (str, bytes, Mapping)) or not isinstance(labels, Iterable):
        raise DeltaError(f"labels={short_repr(labels)}; expected a list of class names in the order of the outputs")
    if isinstance(labels, Set) and not isinstance(labels, type({}.keys())):
        raise DeltaError(
            f"labels={short_repr(labels)} have no order; give a list of class names in the order of the outputs"
        )
    return [_label(label) for label in labels]


def _label(label: Any) -> str:
    """Returns one label as text, or raises a DeltaError."""
    if isinstance(label, str):
        name = str(label)
        if len(name) > LONGEST_TEXT or not is_utf8(name):
            raise DeltaError(
                f"the label {short_repr(name)} is no text (UTF-8) of up to {LONGEST_TEXT} characters; rename the class"
            )
        return name
    if hasattr(label, "__index__") and not isinstance(label, bool) and getattr(label, "ndim", 0) == 0:
        with contextlib.suppress(TypeError):  # a tensor has __index__ even if its number is a fraction
            return str(operator.index(label))
    raise DeltaError(f"labels hold {short_repr(label)} ({type(label).__name__}); expected class names, such as 'cat'")


def labels_for(outputs: int | None, labels: Iterable[Any] | None) -> list[str] | None:
    """Returns the labels as texts, or raises a DeltaError where there isn't one for each output (None: number unknown)."""
    names = label_texts(labels)
    if names is not None and outputs is not None and len(names) != outputs:
        raise DeltaError(f"labels ({len(names)} for {outputs} classes): expected one for each output, in their order")
    return names


def results_table(results: Any) -> dict[str, Any]:
    """Returns the results as a dict, or raises a DeltaError where they are no mapping."""
    if not isinstance(results, Mapping):
        raise DeltaError(f"results={str(results)[:60]}; expected a dict, such as {{'accuracy': 0.9}}")
    return dict(results)


def task_name(task: str | None) -> str | None:
    """Returns the task, or raises a DeltaError where petl doesn't know it."""
    if task is not None and task not in TASKS:
        hint = near(task, TASKS) if isinstance(task, str) else ""
        raise DeltaError(f"task={short_repr(task)}; expected one of {', '.join(map(repr, TASKS))}{hint}")
    return task
