"""Calibrated confidences: the temperature for a classifier's scores, fitted while it is measured."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor, nn

from petl.data.logits import require_logits
from petl.errors import DataError, PetlError
from petl.measures.calibration import FEWEST_CALIBRATED, calibration
from petl.objectives.classification import CrossEntropy
from petl.objectives.metrics import Metrics
from petl.objectives.protocol import Objective
from petl.wrapping.lookup import record


def refuse_calibration(wish: Any) -> None:
    """Raises a PetlError for a ``calibrate=`` that can't be."""
    if wish not in (None, False, True, "temperature") or (
        isinstance(wish, (int, float)) and not isinstance(wish, bool)
    ):
        raise PetlError(f"calibrate={wish!r}; expected True or 'temperature', or None")


class Calibrating:
    """The objective of a classification, whose metrics also have the temperature for these images' scores.

    Args:
        objective: The objective, which measures all the rest.

    Raises:
        DataError: it isn't that of a classification.
    """

    def __init__(self, objective: Objective):
        if not isinstance(objective, CrossEntropy):
            raise DataError("calibrate= is for a classification: one class for each image, confidences by a softmax")
        self.objective = objective

    def __getattr__(self, name: str) -> Any:
        return getattr(self.objective, name)

    def per_image(self, output: Any, targets: Tensor) -> tuple[Tensor, ...]:
        """Returns the objective's columns, and the scores."""
        return (require_logits(output).float(), *self.objective.per_image(output, targets))

    def metrics(self, *columns: Tensor) -> Metrics:
        """Returns the objective's metrics, with the calibration."""
        scores, *rest = columns
        measured: Any = self.objective.metrics(*rest)
        try:
            found = calibration(scores, rest[-1].long())
        except ValueError as error:
            raise DataError(
                f"calibrate=True: {error}; give more labelled images ({FEWEST_CALIBRATED} at least), or leave it out"
            ) from error
        per_image = getattr(measured, "_per_image", None)
        whole: Any = dataclasses.replace(measured, calibration=found)
        if per_image is not None:
            object.__setattr__(whole, "_per_image", per_image)
        return whole


def keep_temperature(model: nn.Module, metrics: Any) -> None:
    """Writes the temperature of metrics into the record of a wrapped model, from which `petl.predict` and deltas have it."""
    wrapped = record(model)
    if wrapped is not None:
        wrapped.temperature = metrics.calibration.temperature
