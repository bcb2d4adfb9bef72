"""What a batch of several tasks returns: a list of outputs, one tensor for each row, which says what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from petl.prediction.meaning import Meaning, meaning_of
from petl.tasks.task import AddedTask


class RowAnswer(NamedTuple):
    """What one row's task answers, float32 [K], and what the numbers mean."""

    meaning: Meaning
    values: np.ndarray


class RowOutputs(list[Tensor]):
    """The outputs of each row [K], as many as the row's task has: a list, with ``tasks`` and ``paths`` beside it.

    Attributes:
        tasks: the name of each row's task.
        paths: how each row was computed: "grouped" (the task's own model on its rows), "shared" (one pass of the backbone, and
            the task's classifier), or "segments" (one pass of the backbone, with the task's changes on its rows).
    """

    def __init__(
        self, rows: list[Tensor], tasks: list[AddedTask], paths: list[str], features: Mapping[int, Tensor]
    ) -> None:
        super().__init__(rows)
        self._tasks, self.paths, self._features = tasks, paths, features

    @property
    def tasks(self) -> list[str]:
        return [task.name for task in self._tasks]

    def padded(self, fill: float = float("-inf")) -> Tensor:
        """Returns one tensor [N, most outputs of any row]; rows with fewer outputs end with ``fill``."""
        width = max(len(row) for row in self)
        out = self[0].new_full((len(self), width), fill)
        for place, row in enumerate(self):
            out[place, : len(row)] = row
        return out

    def answers(self, top: int | None = None) -> list[list[dict[str, Any]]]:
        """Returns what each row's outputs mean by its task: labels with confidences, likeliest first, or values with units.

        Args:
            top: how many labels; else as in `petl.predict`. A task trained for retrieval gives an embedding, as there: what
                the classifier takes, or the output of a model without one.

        Raises:
            DeltaError: labels of a delta that aren't as many as its outputs.
        """
        return [block.meaning.describe(block.values, top) for block in self.decoded()]

    @torch.no_grad()
    def decoded(self) -> list[RowAnswer]:
        """Returns each row's answer as numbers, with what they mean.

        Raises:
            DeltaError: labels of a delta that aren't as many as its outputs.
        """
        rows = [self._features.get(place, row) for place, row in enumerate(self)]
        meanings = {task: meaning_of(task.description, len(row)) for task, row in zip(self._tasks, rows, strict=True)}
        values = [
            meanings[task].answers(row[None])[0].cpu().numpy() for task, row in zip(self._tasks, rows, strict=True)
        ]
        return [RowAnswer(meanings[task], row) for task, row in zip(self._tasks, values, strict=True)]
