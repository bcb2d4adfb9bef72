"""Any mapping may stand in a header's results: figures are found in it, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from petl.delta.recorded_results import is_of_training, recorded_figures, recorded_images


@pytest.mark.parametrize(
    "results, said",
    [
        (None, []),
        ({}, []),
        ({"note": "good", "list": [1.0], "right": True, "lost": None, "epoch": 3, "images": 9}, []),
        ({"loss": 0.5, "top1": 93.1}, ["top1 93.1", "loss 0.5"]),
        ({"loss": 0.5, "f1": 0.5, "accuracy": 0.9, "accuracy_standard_error": 0.0}, ["accuracy 0.900 +- 0.000"]),
        ({"r2": -3.0, "r2_standard_error": 123.0}, ["r2 -3 +- 123"]),
        ({"accuracy": 1e-9, "accuracy_standard_error": 1e-12}, ["accuracy 0.000000 +- 0.000000"]),
    ],
)
def test_figures(results: Any, said: list[str]) -> None:
    assert [str(figure) for figure in recorded_figures(results)][: max(1, len(said))] == said


def test_images_and_where_they_come_from() -> None:
    assert recorded_images({"images": 12}) == 12 == recorded_images({"n": 12})
    assert recorded_images({"images": "12"}) is recorded_images({"images": True}) is recorded_images(None) is None
    assert is_of_training({"epoch": 1, "train_loss": 0.1, "accuracy": 1.0}) and not is_of_training({"accuracy": 1.0})
