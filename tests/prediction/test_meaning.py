"""What outputs mean: by the task, never a softmax where the task isn't one of classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

import petl
from petl.prediction.meaning import DECODINGS, description_of, meaning_of, scores_of

OUTPUTS = torch.tensor([[0.0, 2.0, 1.0]])


def described(description: dict[str, Any], outputs: Tensor = OUTPUTS, top: int | None = None) -> list[dict[str, Any]]:
    meaning = meaning_of(description, outputs.shape[1])
    return meaning.describe(meaning.answers(outputs)[0].numpy(), top)


@pytest.mark.parametrize("task", ["regression", "metric", "multilabel"])
def test_no_softmax_where_outputs_are_no_classes(task: str) -> None:
    answers = meaning_of({"task": task}, 3).answers(OUTPUTS)
    assert torch.equal(answers, OUTPUTS.sigmoid() if task == "multilabel" else OUTPUTS)


def test_classes_by_a_softmax() -> None:
    expected = OUTPUTS.softmax(1)[0].tolist()
    assert described({"labels": ["a", "b", "c"]}, top=2) == [
        {"label": "b", "confidence": pytest.approx(expected[1])},
        {"label": "c", "confidence": pytest.approx(expected[2])},
    ]
    assert described({})[0]["label"] == "1"
    assert described({}, OUTPUTS[:, :1]) == [{"label": "0", "value": 0.0}]  # a softmax over one is sure of anything


def test_thresholds_of_its_own_for_each_label() -> None:
    header = {"task": "multilabel", "labels": ["a", "b", "c"]}
    assert [row["label"] for row in described(header)] == ["b", "c", "a"]
    assert [row["label"] for row in described({**header, "thresholds": [0.6, 0.9, 0.7]})] == ["c"]
    assert described({**header, "thresholds": [0.99] * 3}) == []
    assert [row["label"] for row in described({**header, "thresholds": [0.99] * 3}, top=1)] == ["b"]


@pytest.mark.parametrize(("units", "shown"), [("years", ["years"] * 3), (["kg", "cm", "°C"], ["kg", "cm", "°C"])])
def test_values_have_their_units(units: Any, shown: list[str]) -> None:
    rows = described({"task": "regression", "labels": ["x", "y", "z"], "units": units})
    assert [row["units"] for row in rows] == shown and [row["value"] for row in rows] == [0.0, 2.0, 1.0]


def test_quantiles_have_names_and_their_targets_units() -> None:
    meaning = meaning_of({"task": "regression", "quantiles": [0.1, 0.9], "units": ["kg", "cm"]}, 4)
    assert meaning.labels == ["0 q0.1", "0 q0.9", "1 q0.1", "1 q0.9"] and meaning.units == ["kg", "kg", "cm", "cm"]


def test_a_level_is_the_median_and_not_the_likeliest() -> None:
    outputs = torch.tensor([[0.35, 0.30, 0.35]]).log()
    rows = described({"task": "ordinal", "labels": ["low", "middle", "high"]}, outputs, top=3)
    assert [row["label"] for row in rows] == ["middle", "low", "high"]
    assert rows[0]["confidence"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ({"task": "segmentation"}, "upgrade"),
        ({"labels": ["a", "b"]}, "2 labels for a model of 3 outputs"),
        ({"task": "regression", "units": ["a", "b"]}, "2 units"),
        ({"task": "multilabel", "thresholds": [0.5]}, "1 thresholds"),
    ],
)
def test_what_cant_be_meant_is_refused(description: dict[str, Any], said: str) -> None:
    with pytest.raises(petl.DeltaError, match=said):
        meaning_of(description, 3)


@pytest.mark.parametrize(
    "output", [torch.zeros(2, 3, 4, 4), torch.zeros(3), {"a": 1}, [], torch.zeros(1, 3), torch.zeros(2, 0)]
)
def test_what_are_no_scores_is_refused(output: Any) -> None:
    with pytest.raises(petl.DeltaError, match=r"answers 2 images with .*\[2, classes\]"):
        scores_of(output, 2)


def test_scores_are_found_as_evaluate_finds_them() -> None:
    assert scores_of((OUTPUTS, None), 1) is OUTPUTS and scores_of({"logits": OUTPUTS}, 1) is OUTPUTS


def test_the_models_record_says_what_it_means_and_the_caller_more() -> None:
    plain = timm.create_model("test_resnet")
    assert description_of(plain)["task"] is None
    assert description_of(timm.create_model("test_resnet", num_classes=0))["task"] == "metric"
    wrapped = petl.wrap(plain, "probe", num_classes=2)
    petl.record(wrapped).labels, petl.record(wrapped).task = ["a", "b"], "multilabel"
    assert description_of(wrapped)["labels"] == ["a", "b"] and description_of(wrapped)["task"] == "multilabel"
    assert description_of(wrapped, labels=range(2), task="regression") == {
        **description_of(wrapped),
        "labels": ["0", "1"],
        "task": "regression",
    }
    with pytest.raises(petl.DeltaError, match="segmentation"):
        description_of(plain, task="segmentation")


def test_every_decoding_keeps_the_shape() -> None:
    assert all(decode(OUTPUTS).shape == OUTPUTS.shape for decode in DECODINGS.values())
    assert np.allclose(DECODINGS["ordinal"](OUTPUTS).sum(), 1)
