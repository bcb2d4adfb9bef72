"""The images of a report: at most so many, in memory, with what is known of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from petl.data.inputs import loader_classes
from petl.data.pairs import Keys
from petl.data.pipelines import pipeline
from petl.data.replacements import MarkedUnreadable
from petl.data.wrappers import pipeline_of
from petl.errors import DataError
from petl.extraction.features import named_targets
from petl.extraction.image_batches import (
    ImageBatches,
    file_names,
    image_batches,
    images_and_any_targets,
    share_of_batches,
    unreadable_rows,
)
from petl.extraction.sampled_images import sampled_batches
from petl.report.thumbnails import Colours, colours_of


@dataclass(frozen=True)
class ReportImages:
    """Images [N, C, H, W] as the model takes them, in the model's type, and what is known of them.

    Attributes:
        y: int64 [N], float32 [N] or [N, k]; None without labels.
        classes: The names of the classes, or of the labels.
        files: The last two parts of each image's path; None where the images are no files.
        unreadable: Files that were left out, with the reasons.
        pipeline: Mean and deviation that the images were normalised with, as far as petl knows.
        of: How many images the data has, None where it can't be known.
    """

    pictures: Tensor
    y: Tensor | None
    classes: list[str]
    files: list[str] | None
    unreadable: dict[str, str]
    pipeline: dict[str, Any]
    of: int | None

    @property
    def colours(self) -> Colours:
        """Returns a function from the images to the colours that they are shown in."""
        return colours_of(self.pictures, self.pipeline)

    @property
    def kind(self) -> str:
        """Returns what the targets are: "classes", "labels" (several for an image), "numbers", or "" without any."""
        if self.y is None:
            return ""
        if not self.y.is_floating_point() and self.y.ndim == 1:
            return "classes"
        known = self.y[~self.y.isnan()] if self.y.is_floating_point() else self.y
        return "labels" if self.y.ndim == 2 and bool(((known == 0) | (known == 1)).all()) else "numbers"


def read_images(
    data: Any,
    model: nn.Module,
    *,
    images: int,
    seed: int,
    split: str | None,
    labels: list[str] | None,
    keys: Keys | None,
    each: Callable[[], object] = lambda: None,
    **options: Any,
) -> ReportImages:
    """Returns a sample of the data, every class in its share; of a loader or a stream, whatever it gives, evenly chosen.

    Raises:
        DataError: there is no image, none can be read, or they are of several sizes.
    """
    batches = image_batches(data, model, split=split, classes=labels, keys=keys, **options)
    count = _count(batches)
    chosen = sampled_batches(batches, images, seed)
    rows = _Rows(images, seed)
    for batch in share_of_batches(chosen.loader, 0, 1):
        rows.add(*images_and_any_targets(batch, model))
        each()
    if not rows.pictures:
        raise DataError(
            f"the data gave no image that can be read, of {rows.seen}; the log names each that can't, with its reason"
        )
    pictures, y = rows.whole(chosen.labelled)
    names = labels or loader_classes(chosen.loader)
    y, classes = named_targets(y, names, model, labels)
    files = file_names(chosen.loader, rows.seen)
    bad = {_short(files[row]) if files else f"image {row}": "it can't be read" for row in rows.unreadable}
    left_out = {**{_short(file): why for file, why in chosen.left_out.items()}, **bad}
    kept = None if files is None else [_short(files[row]) for row in rows.numbers]
    known = pipeline_of(chosen.loader.dataset) if hasattr(chosen.loader, "dataset") else None
    if not classes and y is not None and names and y.ndim == 2 and len(names) == y.shape[1]:
        classes = list(names)
    return ReportImages(pictures, y, classes, kept, left_out, dict(known or pipeline(model)), count or rows.seen)


def _count(batches: ImageBatches) -> int | None:
    dataset: Any = getattr(batches.loader, "dataset", None)
    dataset = dataset.dataset if isinstance(dataset, MarkedUnreadable) else dataset
    return len(dataset) if hasattr(dataset, "__len__") else None


def _short(file: str) -> str:
    """Returns the last two parts of a path: a report that is passed on names no folder of this machine."""
    return "/".join(Path(file).parts[-2:])


class _Rows:
    """Rows of batches, at most ``most``: of more, each is as likely to stay (reservoir sampling)."""

    def __init__(self, most: int, seed: int) -> None:
        self.most, self.rng = most, np.random.default_rng([seed, 0])
        self.pictures: list[Tensor] = []
        self.targets: list[Tensor | None] = []
        self.numbers: list[int] = []
        self.unreadable: list[int] = []
        self.seen = self.readable = 0

    def add(self, pictures: Tensor, targets: Tensor | None) -> None:
        for row, bad in enumerate(unreadable_rows(pictures, targets).tolist()):
            number, self.seen = self.seen, self.seen + 1
            if bad:
                self.unreadable.append(number)
                continue
            place = self.readable if self.readable < self.most else int(self.rng.integers(self.readable + 1))
            self.readable += 1
            if place < self.most:
                self._put(place, pictures[row], None if targets is None else targets[row], number)

    def _put(self, place: int, picture: Tensor, target: Tensor | None, number: int) -> None:
        picture = picture.detach().cpu().clone()
        if self.pictures and picture.shape != self.pictures[0].shape:
            raise DataError(
                f"images of shapes {tuple(self.pictures[0].shape)} and {tuple(picture.shape)}; a report needs images of one size"
            )
        if place == len(self.pictures):
            self.pictures.append(picture)
            self.targets.append(None)
            self.numbers.append(number)
        self.pictures[place], self.numbers[place] = picture, number
        self.targets[place] = None if target is None else target.detach().cpu()

    def whole(self, labelled: bool) -> tuple[Tensor, Tensor | None]:
        targets = [target for target in self.targets if target is not None]
        y = torch.stack(targets) if labelled and len(targets) == len(self.targets) else None
        return torch.stack(self.pictures), y


def in_batches(pictures: Tensor, size: int) -> Iterator[Tensor]:
    """Yields the images, so many at a time."""
    return (pictures[start : start + size] for start in range(0, len(pictures), size))
