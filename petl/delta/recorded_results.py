"""What the results in a header say: which figures, their standard errors, on how many images. Any mapping may stand there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from petl.errors import ITEM, printable, shortened
from petl.format.texts import is_finite_number

ERROR = "_standard_error"  # of a figure's name, as TaskMetrics.row has it
IMAGES = ("images", "n")
WIDE = 1e9  # from here on a figure is shown with few digits
NO_FIGURES = {"epoch", "stage", "train_loss", "lr", "seconds", "epochs", *IMAGES}
MAIN = (  # what a model is judged by, the first that is there
    "accuracy",
    "balanced_accuracy",
    "average_precision",
    "quadratic_kappa",
    "mean_absolute_error",
    "recall_at_1",
    "r2",
)


class Figure(NamedTuple):
    """One result: ``error`` is its standard error, None where it isn't recorded."""

    name: str
    value: float
    error: float | None

    def __str__(self) -> str:
        return f"{self.name} {figure_text(self.value, self.error)}"


def recorded_figures(results: Mapping[str, Any] | None) -> list[Figure]:
    """Returns the figures in results, the one that a model is judged by first; [] where there are none.

    >>> recorded_figures({"epoch": 3, "loss": 0.4, "accuracy": 0.9, "accuracy_standard_error": 0.01, "images": 900})
    [Figure(name='accuracy', value=0.9, error=0.01), Figure(name='loss', value=0.4, error=None)]
    """
    numbers = {str(key): float(value) for key, value in (results or {}).items() if is_finite_number(value)}
    names = [name for name in numbers if name not in NO_FIGURES and not name.endswith(ERROR)]
    names.sort(key=lambda name: (name == "loss", MAIN.index(name) if name in MAIN else len(MAIN)))
    return [Figure(shortened(printable(name), ITEM), numbers[name], numbers.get(f"{name}{ERROR}")) for name in names]


def recorded_images(results: Mapping[str, Any] | None) -> int | None:
    """Returns on how many images the figures were measured; None where that isn't recorded."""
    found = [(results or {}).get(name) for name in IMAGES]
    return next((value for value in found if type(value) is int and value > 0), None)


def is_of_training(results: Mapping[str, Any] | None) -> bool:
    """Returns whether the figures are an epoch's of a training, on the images by which its best epoch was chosen."""
    return {"epoch", "train_loss"} <= {*(results or {})}


def figure_text(value: float, error: float | None) -> str:
    """Returns a figure as text.

    >>> figure_text(0.91234, 0.0123), figure_text(12.3456, None)
    ('0.912 +- 0.012', '12.35')
    """
    if error is None or max(abs(value), abs(error)) >= WIDE:
        return f"{value:.4g}"
    digits = max(0, 1 - math.floor(math.log10(error))) if error > 0 else 3
    digits = min(digits, 6)
    return f"{value:.{digits}f} +- {error:.{digits}f}"
