"""One task as the server has it: a held task of `petl.Tasks`, how its images are read, and how its answers look."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from petl.data.claimed_size import claimed_values
from petl.data.pipelines import pipeline
from petl.data.transforms import Transform
from petl.errors import DataError, DeltaError
from petl.prediction.columns import Layout
from petl.prediction.passes import Block
from petl.serving.folder import ServedFile
from petl.serving.refusals import Refusal
from petl.tasks.outputs import RowAnswer
from petl.tasks.task import AddedTask
from petl.tasks.tasks import Tasks


@dataclass(frozen=True, eq=False)
class ServedTask:
    """A task that stays whole while requests use it, whatever becomes of its file."""

    name: str
    held: AddedTask
    file: ServedFile
    transform: Transform
    kind: str
    labels: list[str]
    since: str = field(
        default_factory=lambda: datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    )

    @classmethod
    def of(cls, tasks: Tasks, key: str, file: ServedFile) -> ServedTask:
        """Returns the task that ``tasks`` has under ``key``, after it has answered an image of zeros.

        Raises:
            PetlError: it can't take an image of its own pipeline, or its labels aren't as many as its outputs.
        """
        held = tasks.hold(key)
        config = pipeline(held.model)
        answer = tasks.predict(torch.zeros(1, *config["input_size"]), held).decoded()[0]
        refuse_broken(answer.values)
        return cls(file.name, held, file, Transform(config), answer.meaning.task, answer.meaning.labels)

    def read(self, data: bytes, max_pixels: int) -> Tensor:
        """Returns an image file's bytes as the tensor [C, H, W] that the task's model takes.

        Raises:
            Refusal: it is no image that can be read, none for this task, or it is too large.
        """
        try:
            if (values := claimed_values(data)) > 4 * max_pixels:
                size = "far too many" if values >= 2**62 else f"{values:,}"
                raise Refusal(
                    413,
                    f"the image has {size} numbers (pixels times channels), and this server takes {4 * max_pixels:,}",
                )
            image = self.transform(data)
        except DataError as error:
            raise Refusal(422, f"the image can't be read: {error}") from error
        if not torch.isfinite(image).all():
            raise Refusal(422, "the image can't be read: it has pixels that are NaN or infinite")
        return image

    def row(self, answer: RowAnswer, top: int | None, every: bool) -> dict[str, Any]:
        """Returns the answer as `petl.predict` has it in a row, with the task's name in place of the image's.

        Raises:
            DeltaError: it has numbers that are NaN or infinite.
        """
        refuse_broken(answer.values)
        block = Block([""], answer.values[None], [])
        row = next(Layout(answer.meaning, top, every).rows(block))
        return {"task": self.name, **{key: value for key, value in row.items() if key != "image"}}

    def description(self) -> dict[str, Any]:
        """Returns what `GET /tasks` says of the task."""
        record, config = self.held.record, self.transform.config
        channels, height, width = config["input_size"]
        return {
            "name": self.name,
            "file": self.file.path.name,
            "kind": self.kind,
            "labels": self.labels,
            "methods": [method.name for method in record.methods],
            "image": {"channels": channels, "height": height, "width": width},
            "temperature": record.temperature,
            "results": record.results,
            "since": self.since,
        }


def refuse_broken(values: np.ndarray) -> None:
    """Raises a DeltaError for answers that mean nothing."""
    if not np.isfinite(values).all():
        raise DeltaError("the task's answer is NaN or infinite; the values of its delta are broken: train it again")
