"""``--objective`` and ``--units`` of ``petl train``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from petl.errors import MethodError, near
from petl.objectives.choice import TASKS_BY_NAME
from petl.objectives.protocol import Task
from petl.objectives.regression import Regression


def chosen_objective(name: str | None, units: str | None, by_fit: Any) -> str | Task | None:
    """Returns what ``petl.fit`` takes for the words of the command line; None where the data is to tell.

    Raises:
        MethodError: no such objective, two of them, or units of what is no regression.

    >>> chosen_objective(None, "years", None).units, chosen_objective("ordinal", None, None)
    ('years', 'ordinal')
    """
    if name is not None and by_fit is not None:
        raise MethodError(f"got --objective {name} and --fit objective={by_fit}; expected one of them")
    meant = by_fit if name is None else name
    if meant is not None and meant not in TASKS_BY_NAME:
        hint = near(meant, TASKS_BY_NAME) if isinstance(meant, str) else ""
        raise MethodError(f"objective={meant!r}; expected one of {', '.join(TASKS_BY_NAME)}{hint}")
    if units is None:
        return meant
    if meant not in (None, "regression"):
        raise MethodError(f"got --units {units} with the objective {meant}; they belong to a regression")
    texts = [text.strip() for text in units.split(",")]
    return Regression(units=texts if len(texts) > 1 else texts[0])


def named_outputs(classes: Sequence[str], objective: Any, args: Mapping[str, Any]) -> Sequence[str] | None:
    """Returns the names of the new classifier's outputs; None where features are trained in a model that is to have none.

    >>> named_outputs(["cat", "dog"], "metric", {"num_classes": 0})
    """
    return None if objective == "metric" and args.get("num_classes") == 0 else classes
