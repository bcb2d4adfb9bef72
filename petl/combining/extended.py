"""`Extended`: a model whose classifier has learned more classes and images, and the statistics from which it goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from petl.combining.model_findings import NOT_IN_JSON, ModelFindings
from petl.combining.ridge_statistics import RidgeStatistics, statistics_beside
from petl.delta.file import Paths, path_to_write


@dataclass(frozen=True, repr=False)
class Extended(ModelFindings):
    """What `petl.extend` made. It prints as sentences; ``save(path)`` writes the delta, and the statistics beside it.

    Attributes:
        model: The wrapped model with its new classifier, in evaluation mode.
        statistics: Sums over all images so far; never changed.
        classes: All classes; ``new``: those that came now. ``added``: how many images of each class came now.
        images: All images so far, by class.
        penalty: Of the ridge regression. ``error``: the mean squared error of an output on a left-out image, estimated.
        width: Features of an image. ``notes``: what else is to be known.
    """

    statistics: RidgeStatistics = field(compare=False, metadata=NOT_IN_JSON)
    classes: Sequence[str]
    new: Sequence[str]
    added: Mapping[str, int]
    images: Mapping[str, int]
    penalty: float
    error: float
    width: int
    notes: Sequence[str] = ()

    def sentences(self) -> list[str]:
        count, total = sum(self.added.values()), sum(self.images.values())
        names = ", ".join(self.new[:5]) + (f" and {len(self.new) - 5} more" if len(self.new) > 5 else "")
        size = 8 * (self.width * (self.width + 1) // 2 + len(self.classes) * self.width)
        return [
            f"{count} images of {len(self.added)} classes came to {total - count}: {total} images, {len(self.classes)} classes.",
            f"New classes: {names}." if self.new else "No class is new.",
            f"Ridge regression on {self.width} features, penalty {self.penalty:g}, by generalised cross-validation: the "
            "same as of all images at once, in whatever order they came.",
            f"The statistics take {size / 1e6:.1f} MB in a file beside the delta.",
            *self.notes,
        ]

    def save(self, path: Paths, **options: Any) -> Path:
        """Writes the delta as `petl.save` does, with its ``options``, and the statistics beside it; returns the delta's path.

        The statistics come first: an interruption leaves statistics that the old delta's labels don't fit, which the next
        `petl.extend` says.
        """
        self.statistics.save(statistics_beside(path_to_write(path)))
        return super().save(path, **options)
