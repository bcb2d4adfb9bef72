"""One pass of a model over images: the answers of each batch, in the order of the images, on one process or several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from petl.data.first_image import output_of
from petl.data.views import Views, average_outputs, averaged_task, views_of
from petl.errors import DataError, DeltaError
from petl.extraction.feature_pass import exchanged, in_step
from petl.graft.values import input_dtype
from petl.objectives.metric_learning import classifier_of, features_and_output
from petl.prediction.meaning import Meaning, meaning_of, scores_of
from petl.prediction.reading import ReadBatch
from petl.wrapping.lookup import bare


@dataclass
class Block:
    """The answers of one batch: float32 [n, K] with their images' names, and the images that were left out, with reasons."""

    names: list[str]
    values: np.ndarray
    skipped: list[tuple[str, str]]

    @property
    def seen(self) -> int:
        return len(self.names) + len(self.skipped)


class Pass:
    """Answers batches with a model; what the answers mean is known after the first one.

    Args:
        description: what is known of the outputs, with the keys of a delta's header.
        strict: whether an image that can't be read is an error.
        views: several views of each image, whose answers are averaged as `petl.evaluate` does; None: the image alone.
    """

    def __init__(
        self,
        accelerator: Any,
        net: nn.Module,
        description: Mapping[str, Any],
        *,
        strict: bool = False,
        views: Views = None,
    ):
        self.accelerator, self.net, self.description = accelerator, net, description
        self.strict, self.views, self.dtype = strict, views_of(views), input_dtype(net)
        self.embeds = description.get("task") == "metric"
        self.head = classifier_of(bare(net)) if self.embeds else None
        self.meaning: Meaning | None = None

    def blocks(self, batches: Iterable[ReadBatch]) -> Iterator[Block]:
        """Yields the answers of all ranks' batches in their order, at every rank; an error of one of them is raised by all."""
        for block in in_step(self.accelerator, map(self.answer, batches)):
            if self.meaning is None and block.names:  # this rank has had no image yet
                self.meaning = meaning_of(self.description, block.values.shape[1])
            yield block

    def answer(self, batch: ReadBatch) -> Block:
        """Returns the answers of one batch."""
        if batch.error is not None:
            raise batch.error
        names, images, skipped = batch.names, batch.images, list(batch.skipped)
        if images is not None:
            names, images = _without_broken_pixels(names, images, skipped)
        if skipped and self.strict:
            raise DataError(f"{': '.join(skipped[0])}; mend or remove it, or leave out strict")
        if images is None or not len(images):
            return Block([], np.zeros((0, 0), dtype=np.float32), skipped)
        values = self._values(images)
        if len(broken := np.flatnonzero(~np.isfinite(values).all(1))):
            raise DeltaError(
                f"{names[broken[0]]}: the model's answer is NaN or infinite; the model's values are broken: train it again"
                + (", or predict without a lower precision" * (self.accelerator.mixed_precision != "no"))
            )
        return Block(names, values, skipped)

    def _values(self, images: Tensor) -> np.ndarray:
        """Returns the answers [N, K] for images: of each one alone, or for the mean over its views."""
        moved = images.to(self.accelerator.device, self.dtype, non_blocking=True)
        outputs = [self._outputs_of(view) for view in self.views(moved)]
        if self.meaning is None:
            self.meaning = meaning_of(self.description, outputs[0].shape[1])
        one = outputs[0] if len(outputs) == 1 else average_outputs(outputs, averaged_task(self.meaning.task))
        return self.meaning.answers(one).cpu().numpy()

    def _outputs_of(self, images: Tensor) -> Tensor:
        """Returns the outputs [N, K], or, of a model that was trained for retrieval, what its classifier takes."""
        with torch.no_grad(), self.accelerator.autocast():
            if self.embeds:
                return features_and_output(self.head, lambda part: output_of(self.net, part), images)[0]
            return scores_of(output_of(self.net, images), len(images))


def _without_broken_pixels(
    names: list[str], images: Tensor, skipped: list[tuple[str, str]]
) -> tuple[list[str], Tensor]:
    """Leaves out images with NaN or infinite pixels, as files of floats may have: their answers would mean nothing."""
    good = torch.isfinite(images.flatten(1)).all(1)
    if good.all():
        return names, images
    skipped += [
        (name, "it has pixels that are NaN or infinite") for name, fine in zip(names, good, strict=True) if not fine
    ]
    return [name for name, fine in zip(names, good, strict=True) if fine], images[good]


def refuse_different_lists(accelerator: Any, checksum: int, count: int) -> None:
    """Raises a DataError where the ranks have found different images, such as files that are being written meanwhile."""
    if len({*exchanged(accelerator, (count, checksum))}) > 1:
        raise DataError(
            "the processes found different images; wait until the files are written, or list them in a table"
        )
