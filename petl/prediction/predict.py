"""`predict`: a model's answers for images, in memory or streamed to a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch.distributed as dist
from torch import nn

from petl.data.views import Views
from petl.errors import DataError, StateError
from petl.extraction.undisturbed import rng_restored
from petl.prediction.columns import Layout
from petl.prediction.meaning import Meaning, description_of
from petl.prediction.passes import Block
from petl.prediction.results import Predictions
from petl.prediction.streaming import PassSettings, stream
from petl.prediction.writers import refuse_output, write_blocks


def predict(
    model: nn.Module,
    images: Any,
    *,
    labels: Sequence[Any] | None = None,
    task: str | None = None,
    pipeline: Mapping[str, Any] | None = None,
    top: int | None = None,
    probabilities: bool = True,
    out: str | Path | None = None,
    batch_size: int = 32,
    workers: int = 0,
    strict: bool = False,
    views: Views = None,
    precision: Literal["no", "bf16", "fp16"] | None = None,
    progress: bool = True,
) -> Predictions:
    """Returns a model's answers for images, by its task, in the order of the images; modes and random generators stay.

    Args:
        model: Any classifier of images, wrapped or not; it is taken to accelerate's device.
        images: A path, a pattern (``"new/**/*.jpg"``), a folder or a ``.tar`` (everything in and under it, in natural order,
            named relative to it), a table with a column ``path`` (CSV, TSV, JSON lines, Parquet, a frame), a list of paths, PIL
            images or arrays (which go through the pipeline as image files and ``.npy`` files do), tensors [C, H, W] or one
            [N, C, H, W] (as the model takes them), a Dataset, a DataLoader, or an iterable of images or batches.
        labels: Names of the outputs; else the wrapped model's, else their numbers.
        task: What the outputs mean; else the wrapped model's. "classification" and "ordinal" answer with a softmax,
            "multilabel" with a sigmoid of each, "regression" with the numbers as they are, "metric" with features: what the
            classifier takes, or the outputs of a model without one. Without a task, several
            outputs are classes, and one is a value.
        pipeline: How files are read; else `petl.data.pipeline` of the model.
        top: How many labels each image gets; else one, or those of a multi-label task that reach their threshold (.5).
        probabilities: Whether rows and files have the probabilities of all labels.
        out: A ``.csv``, ``.jsonl`` or ``.parquet`` file, which is written while the images are read, in constant memory, and
            appears when it is whole (a file of that name is replaced); the answers aren't kept in memory then.
        workers: Processes that read images.
        strict: An error at the first image that can't be read (where a quick look shows it, before the model runs); without it
            such images are listed in ``.skipped``.
        views: Test-time augmentation, as in `petl.evaluate`: the mean over several views of each image.
        precision: As in `petl.fit`.

    Under several ranks each one answers its share of the batches, all return the same, and the first writes the file. In
    batches of another size, or on another number of ranks, float32 answers differ by rounding: 1e-5 at most in our tests.

    Raises:
        PetlError: no image is there or can be read, the model can't take them, the labels aren't as many as the outputs,
            or the file can't be written.

    >>> import timm, torch
    >>> model = timm.create_model("test_vit", num_classes=2)
    >>> predictions = predict(model, torch.zeros(3, 3, 160, 160), labels=["cat", "dog"])
    >>> len(predictions), predictions.probabilities.shape, sorted(predictions[0])
    (3, (3, 2), ['confidence', 'image', 'label', 'probabilities'])
    """
    if not isinstance(model, nn.Module):
        raise StateError(f"got a {type(model).__name__} for the model; petl.load reads a delta onto its backbone")
    if not isinstance(out, (str, os.PathLike, type(None))):
        raise StateError(f"out={out!r}; expected the path of a file, or None")
    description = description_of(model, labels=labels, task=task)
    settings = PassSettings(
        batch_size=batch_size,
        workers=workers,
        top=top,
        strict=strict,
        views=views,
        precision=precision,
        progress=progress,
        pipeline=pipeline,
    )
    return predict_described(model, images, description, settings, every=probabilities, out=out)


def predict_described(
    model: nn.Module,
    images: Any,
    description: Mapping[str, Any],
    settings: PassSettings,
    *,
    every: bool = True,
    out: str | Path | None = None,
) -> Predictions:
    """Returns the answers for images by a description of the outputs, such as a delta's header; see `predict`."""
    path = None if out is None else Path(out)
    if path is not None:
        refuse_output(path)
    seen = _Seen()
    answers = seen.blocks(stream(model, images, description, settings), settings.top, every)
    with rng_restored(images), contextlib.closing(answers) as blocks:
        if path is not None and is_first_rank():
            write_blocks(path, blocks)
        values = [block.values for _, block in blocks if path is None]  # with a file, the other ranks' are let go
    whole = np.concatenate(values) if values else None
    return Predictions(seen.layout, seen.files, whole, seen.skipped, path)  # type: ignore[arg-type]  # blocks has raised if None


@dataclass
class _Seen:
    """What is kept of the blocks that went by: names and reasons, and the layout of their table."""

    files: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    layout: Layout | None = None

    def blocks(
        self, stream: Generator[tuple[Meaning | None, Block], None, None], top: int | None, every: bool
    ) -> Generator[tuple[Layout, Block], None, None]:
        """Yields the blocks with answers.

        Raises:
            DataError: none of the images can be read.
        """
        with contextlib.closing(stream):
            for meaning, block in stream:
                self.files += block.names
                self.skipped += block.skipped
                if block.names and meaning is not None:
                    self.layout = self.layout or Layout(meaning, top, every)
                    yield self.layout, block
        if self.layout is None:
            raise DataError(self._none())

    def _none(self) -> str:
        if not self.skipped:
            return "there was no image to predict; expected at least one"
        first = ": ".join(self.skipped[0])
        count = len(self.skipped)
        return first if count == 1 else f"none of the {count} images can be read; the first one: {first}"


def is_first_rank() -> bool:
    """Returns whether this process writes files: the first of several, or the only one."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return os.environ.get("RANK", "0") == "0"
