"""Targets as a dataset gives them: class numbers by the names that are asked for, labels as zeros and ones, or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from petl.data.bad_files import LEFT_OUT
from petl.data.source_labels import renumbering, source_classes
from petl.errors import DataError


class TargetKind(Protocol):
    """Turns a source's target into the dataset's; ``names`` are those of classes or labels, ``unknown`` marks a missing one."""

    task: str
    names: list[str]
    unknown: Any

    def __call__(self, target: Any) -> Any:
        """Returns the target of one image."""
        ...

    def array(self, targets: Sequence[Any]) -> np.ndarray:
        """Returns the targets of many images."""
        ...


class ClassNumbers:
    """Targets that are class numbers: int64, numbered by the names."""

    task, unknown = "classification", LEFT_OUT

    def __init__(self, own: Sequence[str], classes: Sequence[str] | None):
        self.names = list(own if classes is None else classes)
        self.numbers = renumbering(own, self.names)

    def __call__(self, target: Any) -> int:
        if (number := self.numbers.get(int(target))) is None:
            raise DataError(f"its class number is {int(target)}, known are 0 to {len(self.numbers) - 1}")
        return number

    def array(self, targets: Sequence[Any]) -> np.ndarray:
        return np.array([self(target) for target in targets], dtype=np.int64)


class SeveralLabels:
    """Targets that are several labels: float32 [K] of 0 and 1, NaN where it isn't known, in the order of the names."""

    task = "multilabel"

    def __init__(self, own: Sequence[str], classes: Sequence[str] | None, absent: float):
        self.names = list(own if classes is None else classes)
        self.places = list(renumbering(own, self.names).values())
        self.absent = absent
        self.unknown = torch.full((len(self.names),), torch.nan)

    def __call__(self, target: Any) -> Tensor:
        return torch.from_numpy(self.array([target])[0])

    def array(self, targets: Sequence[Any]) -> np.ndarray:
        found = np.full((len(targets), len(self.names)), self.absent, dtype=np.float32)
        found[:, self.places] = np.asarray(targets, dtype=np.float32).reshape(len(targets), len(self.places))
        return found


class NumberTargets:
    """Targets that are numbers: a float32 scalar, or float32 [K], with NaN where one isn't known."""

    task = "regression"

    def __init__(self, columns: Sequence[str]):
        self.names: list[str] = []
        self.columns = list(columns)
        self.unknown = torch.full((len(columns),) if len(columns) > 1 else (), torch.nan)

    def __call__(self, target: Any) -> Tensor:
        return torch.tensor(np.asarray(target), dtype=torch.float32)

    def array(self, targets: Sequence[Any]) -> np.ndarray:
        return np.asarray(targets, dtype=np.float32)


def target_kind(source: Any, classes: Sequence[str] | None) -> TargetKind:
    """Returns how the targets of a source are to be read, with these names for classes or labels.

    Raises:
        DataError: the source has a class or label that isn't among ``classes``.
    """
    task = getattr(source, "task", None)
    if task == "regression":
        return NumberTargets(source.class_names)
    if task == "multilabel":
        return SeveralLabels(source.class_names, classes, source.absent)
    return ClassNumbers(source_classes(source), classes)
