"""What a batch of several tasks returns: a list of outputs, one tensor for each row, which says what they mean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from petl.prediction.meaning import meaning_of
from petl.tasks.task import AddedTask


class RowOutputs(list[Tensor]):
    """The outputs of each row [K], as many as the row's task has: a list, with ``tasks`` and ``paths`` beside it.

    Attributes:
        tasks: the name of each row's task.
        paths: how each row was computed: "grouped" (the task's own model on its rows), "shared" (one pass of the backbone, and
            the task's classifier), or "segments" (one pass of the backbone, with the task's changes on its rows).
    """

    def __init__(self, rows: list[Tensor], tasks: list[AddedTask], paths: list[str]) -> None:
        super().__init__(rows)
        self._tasks, self.paths = tasks, paths

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
            top: how many labels; else as in `petl.predict`. A task trained for retrieval gives its outputs as an embedding.

        Raises:
            DeltaError: labels of a delta that aren't as many as its outputs.
        """
        meanings = {task: meaning_of(task.description, len(row)) for task, row in zip(self._tasks, self, strict=True)}
        with torch.no_grad():
            values = [meanings[t].answers(row[None])[0].cpu().numpy() for t, row in zip(self._tasks, self, strict=True)]
        return [meanings[task].describe(row, top) for task, row in zip(self._tasks, values, strict=True)]
