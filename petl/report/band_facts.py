"""Which detail a model uses: how far features move, and what is still read, without each band of frequencies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from petl.evidence.intervals import accuracy_error
from petl.evidence.leave_one_out import ridge
from petl.measures.frequency_bands import BANDS, band_edges, band_masks, feature_change, without_band
from petl.report.depth_facts import can_read
from petl.report.images import ReportImages
from petl.report.model_passes import ReportModel

BAND_IMAGES = 128  # each runs once for every band and model


def band_facts(
    images: ReportImages,
    models: dict[str, tuple[ReportModel, Tensor, Tensor]],
    each: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Returns a row for each band, of the images without it.

    ``models`` has under "before" and "after" the model, its images, and its features of the images as they are [N, D].
    """
    height, width = images.pictures.shape[2:]
    if min(height, width) < 8 or not images.pictures.is_floating_point():
        return {"why_not": f"images of {height} x {width} pixels have too few frequencies for {BANDS} bands"}
    rows = _evenly(len(images.pictures))
    upper = band_edges(height, width)
    there = band_masks(height, width).flatten(1).any(1).tolist()
    table: list[dict[str, Any]] = [
        {"band": number, "from": [0.0, *upper][number], "to": upper[number] if math.isfinite(upper[number]) else None}
        for number in range(BANDS)
        if there[number]
    ]
    heads = {when: _crossed(x, images, rows) for when, (_, _, x) in models.items()}
    facts: dict[str, Any] = {"images": len(rows), "side": min(height, width), "rows": table}
    for when, (model, pictures, x) in models.items():
        if heads[when] is not None:
            facts[f"accuracy_{when}"], facts[f"error_{when}"] = _right(heads[when](x[rows]), images, rows)  # type: ignore[misc]  # is there
        for row in table:
            changed, _ = model.vectors(without_band(pictures[rows].float(), row["band"]).to(pictures.dtype))
            row[f"change_{when}"] = feature_change(x[rows], changed)
            if (head := heads[when]) is not None:
                row[f"accuracy_{when}"], row[f"error_{when}"] = _right(head(changed), images, rows)
            each()
    return facts


def _evenly(count: int) -> Tensor:
    """Returns at most `BAND_IMAGES` numbers from 0 to ``count``, evenly spread."""
    chosen = min(count, BAND_IMAGES)
    return (torch.arange(chosen) * count) // chosen


def _crossed(x: Tensor, images: ReportImages, rows: Tensor) -> Callable[[Tensor], Tensor] | None:
    """Returns a function from features of the images ``rows`` to class numbers: ridge regression that never saw the image.

    Half of them are told by a head that was fitted on all images but that half, the other half likewise.
    """
    if can_read(images) or images.y is None:
        return None
    y, classes = images.y, max(len(images.classes), int(images.y.max()) + 1)
    halves = [torch.arange(len(rows))[part::2] for part in (0, 1)]
    heads = []
    for half in halves:
        others = torch.ones(len(x), dtype=torch.bool)
        others[rows[half]] = False
        if int(others.sum()) < 2 or not len(half):
            return None
        heads.append(ridge(x[others], y[others], classes))

    def predict(changed: Tensor) -> Tensor:
        said = torch.zeros(len(rows), dtype=torch.long)
        for half, head in zip(halves, heads, strict=True):
            said[half] = (changed[half].double() @ head.weight.T + head.bias).argmax(1)
        return said

    return predict


def _right(said: Tensor, images: ReportImages, rows: Tensor) -> tuple[float, float]:
    right = (said == images.y[rows]).double()  # type: ignore[index]  # a head is there for labelled images alone
    return float(right.mean()), accuracy_error(float(right.mean()), len(right))
