"""Checks the description of a model's outputs: the labels of its classes, and its task."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Iterable, Mapping, Set
from typing import Any

from petl.errors import DeltaError, near
from petl.format.texts import LONGEST_TEXT, is_utf8, short_repr

TASKS = ("classification", "multilabel", "regression", "ordinal", "metric")


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
    """Returns the results as a dict, or raises a DeltaError where they are no mapping.

    A number that isn't finite, such as an R2 of constant targets, becomes None: JSON has no NaN.
    """
    if not isinstance(results, Mapping):
        raise DeltaError(f"results={str(results)[:60]}; expected a dict, such as {{'accuracy': 0.9}}")
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in results.items()
    }


def task_name(task: str | None) -> str | None:
    """Returns the task, or raises a DeltaError where petl doesn't know it."""
    if task is not None and task not in TASKS:
        hint = near(task, TASKS) if isinstance(task, str) else ""
        raise DeltaError(f"task={short_repr(task)}; expected one of {', '.join(map(repr, TASKS))}{hint}")
    return task


def unit_texts(units: Any) -> str | list[str] | None:
    """Returns the units of the outputs as one text, or as a text for each, or raises a DeltaError.

    >>> unit_texts("years"), unit_texts(("kg", "cm"))
    ('years', ['kg', 'cm'])
    """
    if units is None or (isinstance(units, str) and is_units(units)):
        return units
    if isinstance(units, (list, tuple)) and is_units([*units]):
        return [*units]
    raise DeltaError(f"units={short_repr(units)}; expected a text, such as 'years', or one for each output")


def is_units(value: Any) -> bool:
    """Returns whether the value is a short text, or a list of them."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) and value else [None]
    return all(isinstance(text, str) and 0 < len(text) <= LONGEST_TEXT and is_utf8(text) for text in texts)


def threshold_list(thresholds: Any) -> list[float] | None:
    """Returns thresholds on probabilities as a list, or raises a DeltaError."""
    return _between_0_and_1("thresholds", thresholds)


def quantile_list(quantiles: Any) -> list[float] | None:
    """Returns the quantiles of a regression, in rising order, or raises a DeltaError."""
    found = _between_0_and_1("quantiles", quantiles)
    if found is not None and found != sorted({*found}):
        raise DeltaError(
            f"quantiles={short_repr(quantiles)}; expected different ones in rising order, such as (0.1, 0.5, 0.9)"
        )
    return found


def refuse_description(task: str | None, outputs: int, units: Any, thresholds: Any) -> None:
    """Raises a DeltaError for units or thresholds that don't belong to the task, or of which there isn't one for each output."""
    if units is not None and task != "regression":
        raise DeltaError(f"units={short_repr(units)} for the task {task!r}; they belong to task='regression'")
    if thresholds is not None and task != "multilabel":
        raise DeltaError(f"thresholds={short_repr(thresholds)} for the task {task!r}; they belong to task='multilabel'")
    for name, values in (("units", units), ("thresholds", thresholds)):
        if isinstance(values, list) and outputs and outputs % len(values):
            raise DeltaError(f"{len(values)} {name} for {outputs} outputs; expected one for each")
    if thresholds is not None and outputs and len(thresholds) != outputs:
        raise DeltaError(f"{len(thresholds)} thresholds for {outputs} outputs; expected one for each")


def description_faults(header: Mapping[str, Any]) -> list[str]:
    """Returns what `refuse_description` would say of a header's values, as a list; [] where they go together."""
    outputs = header["backbone"].get("num_classes") or 0
    try:
        refuse_description(header.get("task"), outputs, header.get("units"), header.get("thresholds"))
    except DeltaError as error:
        return [str(error)]
    return []


def _between_0_and_1(name: str, values: Any) -> list[float] | None:
    if values is None:
        return None
    found = values.tolist() if hasattr(values, "tolist") else [*values] if isinstance(values, (list, tuple)) else values
    if not are_shares(found):
        raise DeltaError(f"{name}={short_repr(values)}; expected a list of numbers above 0 and below 1")
    return [float(value) for value in found]


def are_shares(value: Any) -> bool:
    """Returns whether the value is a list of numbers between 0 and 1, both excluded."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, (int, float)) and not isinstance(one, bool) and 0 < one < 1 for one in value)
    )
