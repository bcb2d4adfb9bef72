"""What the images of a report are: how many of which class, of what size, and which are there twice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from petl.extraction.pooling import small_pictures
from petl.measures.twin_images import equal_images, twin_pairs
from petl.report.images import ReportImages

PICTURE_SIDE = 16  # pixels of the pictures that twins are found by
MOST_PAIRS, MOST_CLASSES_SHOWN, FILES_NAMED = 12, 30, 20


def data_facts(images: ReportImages, x: Tensor, about: str) -> dict[str, Any]:
    """Returns the facts; ``x`` [N, D] are features by which near twins are told from pictures that are alike in outline."""
    channels, height, width = images.pictures.shape[1:]
    facts: dict[str, Any] = {
        "about": about,
        "images": len(images.pictures),
        "of": images.of,
        "channels": channels,
        "height": height,
        "width": width,
        "targets": images.kind,
        "unreadable": [[name, why] for name, why in list(images.unreadable.items())[:FILES_NAMED]],
        "unreadable_files": len(images.unreadable),
        "twins": _twin_facts(images, x),
    }
    return {**facts, **_target_facts(images)}


def _target_facts(images: ReportImages) -> dict[str, Any]:
    y = images.y
    if y is None:
        return {}
    if images.kind == "classes":
        counts = torch.bincount(y, minlength=len(images.classes)).tolist()
        names = [*images.classes, *(str(number) for number in range(len(images.classes), len(counts)))]
        rows = sorted(zip(names, counts, strict=True), key=lambda row: -row[1])
        there = [count for _, count in rows if count]
        spread = {"classes": len(there), "fewest": min(there), "most": max(there)}
        return {**spread, "per_class": [[name, count] for name, count in rows[:MOST_CLASSES_SHOWN]]}
    columns = y[:, None] if y.ndim == 1 else y
    names = images.classes if len(images.classes) == columns.shape[1] else [str(k) for k in range(columns.shape[1])]
    if images.kind == "labels":
        rows = [[name, int((column == 1).sum())] for name, column in zip(names, columns.T, strict=True)]
        return {"labels": len(rows), "per_class": sorted(rows, key=lambda row: -row[1])[:MOST_CLASSES_SHOWN]}
    return {
        "numbers": [
            _number_spread(name, column[~column.isnan()]) for name, column in zip(names, columns.T, strict=True)
        ]
    }


def _number_spread(name: str, values: Tensor) -> list[Any]:
    """Returns name, count, least, mean and greatest of a target's known values."""
    if not len(values):
        return [name, 0, None, None, None]
    values = values.double()
    return [name, len(values), float(values.min()), float(values.mean()), float(values.max())]


def _twin_facts(images: ReportImages, x: Tensor) -> dict[str, Any]:
    """Returns how many images are there twice, and the first pairs (one, other, correlation, whether their labels differ)."""
    equal = equal_images(images.pictures)
    pairs = twin_pairs(small_pictures(images.pictures, None, min(PICTURE_SIDE, *images.pictures.shape[2:])), x)
    near = [pair for pair in pairs if equal.get(pair[1]) != equal.get(pair[0], pair[0])]
    rows = [[one, other, 1.0, _differ(images, one, other)] for other, one in equal.items()]
    rows += [[one, other, alike, _differ(images, one, other)] for one, other, alike in near]
    ordered = sorted(rows, key=lambda row: not row[3])  # those whose labels differ first
    return {
        "equal": len(equal),
        "near": len(near),
        "labels_differ": sum(row[3] for row in rows),
        "pairs": ordered[:MOST_PAIRS],
    }


def _differ(images: ReportImages, one: int, other: int) -> bool:
    return images.y is not None and not torch.equal(images.y[one], images.y[other])
