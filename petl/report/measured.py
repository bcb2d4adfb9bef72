"""Measures all that a report shows, part by part, as plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from petl.errors import DataError
from petl.findings import json_value
from petl.report.answers import Answers, answer_facts, answers_of
from petl.report.band_facts import band_facts
from petl.report.before import Before
from petl.report.data_facts import data_facts
from petl.report.depth_facts import collapse_facts, depth_facts
from petl.report.images import ReportImages
from petl.report.look_choice import look_facts
from petl.report.map_facts import map_facts
from petl.report.model_passes import ReportModel
from petl.report.thumbnails import thumbnails

NUMBER_DIGITS = 6  # of a number in the JSON


@dataclass(frozen=True)
class Measured:
    """All that is measured of the images: ``parts`` by name, and who answered."""

    parts: dict[str, Any]
    answers: Answers | None

    @property
    def answers_itself(self) -> bool:
        """Returns whether the model's own outputs are for these targets."""
        return self.answers is not None and not self.answers.is_reading


def measure_report(
    model: ReportModel, images: ReportImages, before: Before | None, about: str, seed: int, each: Callable[[], object]
) -> Measured:
    """Returns the parts that are measured: images, data, answers, maps, depth, collapse, bands, looks.

    Raises:
        DataError: the model gives numbers that aren't finite.
    """
    after = model.whole_pass(images.pictures, each)
    if bad := int((~torch.isfinite(after.x)).any(1).sum()):
        raise DataError(
            f"the model's features of {bad} of {len(after.x)} images aren't finite: it has diverged; report an epoch from before"
        )
    base = before or Before(model, images.pictures, after)
    mirrored = base.asked.whole_pass(base.pictures.flip(3), each)
    old = before.run if before is not None else None
    answers = answers_of(model.model, after, images)
    runs = {"after": (model, images.pictures, after.x)}
    if before is not None:
        runs = {"before": (before.asked, before.pictures, before.run.x), **runs}
    parts = {
        "images": _images(images, answers),
        "classes": answers.names if answers is not None and answers.predicted is not None else images.classes,
        "data": data_facts(images, base.run.x, about),
        "answers": answer_facts(answers, images),
        "depth": depth_facts(model.model, images, after, old, mirrored),
        "collapse": collapse_facts(images, after, old, answers),
        "bands": band_facts(images, runs, each),
        "maps": map_facts(after.x, old.x if old is not None else None, seed),
        "looks": look_facts(model, images, before, after, answers),
    }
    return Measured(significant(json_value(parts)), answers)


def significant(value: Any) -> Any:
    """Returns plain values with numbers of six digits."""
    if isinstance(value, float):
        return float(f"{value:.{NUMBER_DIGITS}g}")
    if isinstance(value, dict):
        return {key: significant(one) for key, one in value.items()}
    return [significant(one) for one in value] if isinstance(value, list) else value


def _images(images: ReportImages, answers: Answers | None) -> list[dict[str, Any]]:
    """Returns for each image its file, target, answer, and a small picture."""
    pictures = thumbnails(images.pictures, images.colours)
    rows: list[dict[str, Any]] = []
    for row, picture in enumerate(pictures):
        one: dict[str, Any] = {"file": images.files[row] if images.files else f"image {row}", "picture": picture}
        if images.y is not None:
            one["target"] = images.y[row].tolist()
        if answers is not None and answers.predicted is not None:
            one["predicted"] = int(answers.predicted[row])
            one["confidence"] = float(answers.confidence[row]) if answers.confidence is not None else None
        elif answers is not None and answers.values.shape[1] <= 20:
            one["values"] = answers.values[row].tolist()
        rows.append(one)
    return rows
