"""How deep the change goes: alignment with the model before, and what can be read, block by block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from petl.evidence.intervals import accuracy_error
from petl.evidence.reading import read_classes
from petl.measures.cka import LEAST_IMAGES, shuffled_cka, unbiased_cka, without_class_means
from petl.measures.neural_collapse import neural_collapse
from petl.report.answers import Answers
from petl.report.images import ReportImages
from petl.report.model_passes import ModelPass
from petl.sites.names import within
from petl.wrapping.lookup import record

AT_END = "classifier's input"  # the last row of the curves


def depth_facts(
    model: nn.Module, images: ReportImages, after: ModelPass, before: ModelPass | None, mirrored: ModelPass | None
) -> dict[str, Any]:
    """Returns a row for each block: CKA with the model before, accuracies of a leave-one-out reading, places of the delta.

    ``mirrored`` is the model before (or this one) on mirrored images: how far features change where nothing of importance does.
    """
    layers_after = {**after.blocks, AT_END: after.x}
    layers_before = {**before.blocks, AT_END: before.x} if before is not None else {}
    plain = layers_before or layers_after
    turned = {**mirrored.blocks, AT_END: mirrored.x} if mirrored is not None else {}
    places = _places(model, list(after.blocks))
    rows = []
    for name, x in layers_after.items():
        row: dict[str, Any] = {"block": name, "delta": places.get(name, {})}
        if name in layers_before:
            row |= _alignment(layers_before[name], x, images)
        if name in turned and name in plain:
            row["cka_mirrored"] = _cka_or_none(plain[name], turned[name])
        row |= _readings(images, {"before": layers_before.get(name), "after": x})
        rows.append(row)
    shuffled = _shuffled(plain[AT_END]) if len(images.pictures) >= LEAST_IMAGES else None
    return {
        "rows": rows,
        "cka_shuffled": shuffled,
        "outside": places.get("", {}),
        "images": len(after.x),
        "why_no_blocks": after.why_no_blocks,
    }


def _cka_or_none(x: Tensor, y: Tensor) -> float | None:
    value = unbiased_cka(x, y) if len(x) >= LEAST_IMAGES else math.nan
    return value if math.isfinite(value) else None


def _shuffled(x: Tensor) -> float:
    return shuffled_cka(x, x)


def _alignment(before: Tensor, after: Tensor, images: ReportImages) -> dict[str, Any]:
    found: dict[str, Any] = {"cka": _cka_or_none(before, after)}
    if images.kind == "classes" and images.y is not None:
        inside = (without_class_means(table, images.y) for table in (before, after))
        found["cka_within_classes"] = _cka_or_none(*inside)
    return found


def can_read(images: ReportImages) -> str:
    """Returns why classes can't be read from features, or "" where they can."""
    if images.kind == "":
        return "the images have no labels"
    if images.kind != "classes" or images.y is None:
        return "the targets are numbers or several labels, and this reading is of one class for each image"
    if len(images.y) < LEAST_IMAGES or len(torch.unique(images.y)) < 2:
        return "it takes four images or more, of two classes or more"
    return ""


def _readings(images: ReportImages, tables: dict[str, Tensor | None]) -> dict[str, Any]:
    if can_read(images) or images.y is None:
        return {}
    classes, found = max(len(images.classes), int(images.y.max()) + 1), {}
    for when, x in tables.items():
        if x is not None and bool(torch.isfinite(x).all()):
            reading = read_classes(x, images.y, classes)
            found |= {
                f"accuracy_{when}": reading.accuracy,
                f"error_{when}": accuracy_error(reading.accuracy, len(images.y)),
            }
    return found


def _places(model: nn.Module, blocks: Sequence[str]) -> dict[str, dict[str, int]]:
    """Returns for each block how many sites each method has in it; under "" those outside of all blocks."""
    wrapped = record(model)
    found: dict[str, dict[str, int]] = {}
    for method, sites in zip(wrapped.methods, wrapped.sites, strict=True) if wrapped is not None else ():
        for site in sites:
            block = next((name for name in blocks if within(site, [name])), "")
            counts = found.setdefault(block, {})
            counts[method.name] = counts.get(method.name, 0) + 1
    return found


def collapse_facts(
    images: ReportImages, after: ModelPass, before: ModelPass | None, answers: Answers | None
) -> dict[str, Any]:
    """Returns the measures of neural collapse before and after, of classes with two images or more."""
    if why := can_read(images):
        return {"why_not": why}
    assert images.y is not None
    several = torch.bincount(images.y)[images.y] >= 2
    if len(torch.unique(images.y[several])) < 2:
        return {"why_not": "it takes two images or more of two classes or more"}
    y = images.y[several]
    own = answers is not None and answers.by == "the model's classifier" and answers.predicted is not None
    said = answers.predicted[several] if own else None  # type: ignore[index,union-attr]  # asked in the line above
    found = {"after": neural_collapse(after.x[several], y, said)}
    if before is not None:
        found["before"] = neural_collapse(before.x[several], y)
    return {when: vars(measures) for when, measures in found.items()} | {"images": int(several.sum())}
