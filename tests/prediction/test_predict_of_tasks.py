"""Answers of models that were trained for each task, in memory: as evaluate measures them, with views and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import petl
from petl.format.ordinal_outputs import ordinal_levels
from tests.support.tables_of_targets import ages, model_of, part

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def trained(table: Path, outputs: int, objective: Any = None, **options: Any) -> tuple[Any, Any]:
    model, val = model_of(outputs), part(table, "val", **options)
    petl.fit(model, part(table, "train", **options), val, epochs=1, lr=1e-2, objective=objective, progress=False)
    return model, val


@pytest.mark.sweep(4)
@pytest.mark.parametrize("views", [None, "flip", 10, [lambda images: images, lambda images: images * 0.5]])
@pytest.mark.parametrize(
    ("outputs", "objective", "options"),
    [
        (2, None, {"targets": ["age", "weight_kg"]}),
        (2, None, {"labels": "tags"}),
        (3, None, {"label": "grade"}),
        (3, "ordinal", {"label": "grade"}),
    ],
)
def test_predict_answers_what_evaluate_measures(
    outputs: int, objective: Any, options: Any, views: Any, tmp_path: Path
) -> None:
    model, val = trained(ages(tmp_path), outputs, objective, **options)
    found = petl.evaluate(model, val, views=views, progress=False)
    answers, y = petl.predict(model, val, views=views, progress=False), val.targets
    if answers.task == "regression":
        assert np.abs(answers.values - y).mean() == pytest.approx(found.mean_absolute_error, rel=1e-4)
    elif answers.task == "multilabel":
        p = answers.values.astype(np.float64)
        assert -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean() == pytest.approx(found.loss, rel=1e-4)
    else:
        hits = [answers.labels.index(row["label"]) == target for row, target in zip(answers, y, strict=True)]
        assert np.mean(hits) == pytest.approx(found.accuracy)
    if objective == "ordinal":
        with torch.no_grad():
            levels = ordinal_levels(answers_of(model, val, views))
        assert [answers.labels.index(row["label"]) for row in answers] == levels.tolist()


def answers_of(model: Any, val: Any, views: Any) -> torch.Tensor:
    from petl.data.views import with_views

    return with_views(model.eval(), views)(torch.stack([image for image, _ in val]))


def test_a_metric_model_gives_what_its_classifier_takes(tmp_path: Path) -> None:
    """Its classifier isn't trained: the scores would mean nothing."""
    table = ages(tmp_path)
    model, val = trained(table, 3, "metric", label="grade")
    answers = petl.predict(model, val, progress=False)
    assert answers.values.shape == (4, 96) and "embedding" in answers[0]
    np.testing.assert_array_equal(answers.values, petl.features(model, val, progress=False).x.numpy())
    with pytest.raises(petl.DataError, match=r"views= averages answers.*features for retrieval"):
        petl.predict(model, val, views="flip")
    bare = timm.create_model("test_resnet", num_classes=0)
    assert petl.predict(bare, val, progress=False).values.shape == (4, 96)


@pytest.mark.deep
def test_units_thresholds_and_quantiles_of_a_model_in_memory(tmp_path: Path) -> None:
    table = ages(tmp_path)
    years = petl.Regression(units="years", loss="quantile", quantiles=(0.1, 0.5, 0.9))
    model, val = trained(table, 3, years, targets=["age"])
    row = petl.predict(model, val, progress=False)[0]
    assert row["units"] == dict.fromkeys(("age q0.1", "age q0.5", "age q0.9"), "years")
    out = petl.save(model, tmp_path / "d.safetensors")
    loaded = petl.load(out, petl.unwrap(model_of(1)))
    assert petl.predict(loaded, val, progress=False)[0] == row
    for threshold, count in ((0.999, 0), (0.001, 2)):
        model, val = trained(table, 2, petl.Multilabel(thresholds=threshold), labels="tags")
        assert len(petl.predict(model, val, progress=False)[0]["labels"]) == count


def test_views_that_can_not_be(tmp_path: Path) -> None:
    with pytest.raises(petl.DataError, match="views=3; expected"):
        petl.predict(model_of(1), part(ages(tmp_path), "val", targets=["age"]), views=3)
