"""`petl train`, `petl eval` and `petl predict` with tables of numbers and of several labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import petl
from petl.cli.measured_columns import columns_of_labels
from petl.cli.objectives import chosen_objective
from petl.errors import MethodError
from tests.support.commands import call, refused
from tests.support.tables_of_targets import ages

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
MODEL = ("--model", "test_resnet:base.safetensors")


def done(*words: Any) -> str:
    answer = call(*words)
    assert answer.exit_code == 0, answer.output
    return answer.stdout


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    ("words", "task", "labels", "units"),
    [
        (("--data", "targets=age", "--units", "years"), "regression", ["age"], "years"),
        (
            ("--data", "targets=weight_kg,age", "--units", "kg,years"),
            "regression",
            ["weight_kg", "age"],
            ["kg", "years"],
        ),
        ((), "multilabel", ["bright", "red"], None),
        (("--data", "labels=red,bright"), "multilabel", ["red", "bright"], None),
        (("--data", "label=grade", "--objective", "ordinal"), "ordinal", ["0", "1", "2"], None),
        (("--data", "label=grade", "--fit", "objective=metric"), "metric", None, None),
        (("--data", "label=grade", "--objective", "metric", "--arg", "num_classes=0"), "metric", None, None),
    ],
)
def test_from_a_table_to_answers(words: Any, task: str, labels: Any, units: Any, here: Path) -> None:
    ages(here)
    train = ("train", "ages.csv", *MODEL, "--out", "d.safetensors", "--size", 32, "--epochs", 1, "-m", "bn")
    done(*train, *words)
    header = petl.read("d.safetensors")
    assert (header["task"], header["labels"], header["units"]) == (task, labels, units)
    columns = words[:2] if "label=grade" in words else ()  # else by the names of the outputs
    measured = json.loads(done("eval", "d.safetensors", "ages.csv", *MODEL, *columns, "--json"))
    assert measured["measured"] == "val of ages.csv" and measured["images"] == 4
    assert measured["loss"] == pytest.approx(header["results"]["loss"], rel=1e-4)
    rows = json.loads(done("predict", "d.safetensors", "ages.csv", *MODEL, "--json"))
    assert [row["image"] for row in rows] == [f"im/{i}.png" for i in range(12)]
    for answer in (each for row in rows for each in row["predictions"]):
        assert ("confidence" in answer) == (task in ("multilabel", "ordinal")), answer
        assert ("units" in answer) == (units is not None)
        assert len(answer.get("embedding", ())) == (96 if task == "metric" else 0)


def test_other_targets_are_one_error(here: Path) -> None:
    ages(here)
    train = ("train", "ages.csv", *MODEL, "--out", "d.safetensors", "--size", 32, "--epochs", 1, "-m", "bn")
    done(*train, "--data", "targets=age")
    said = refused("eval", "d.safetensors", "pets", *MODEL)
    assert "regression" in said and "class for each image" in said and "--data targets=age" in said
    assert "class for each image" in refused("eval", "d.safetensors", "ages.csv", *MODEL, "--data", "label=grade")
    assert "several labels" in refused("eval", "d.safetensors", "ages.csv", *MODEL, "--data", "labels=tags")
    plain = json.loads(done("predict", "d.safetensors", "im/0.png", *MODEL, "--json"))[0]["predictions"][0]["value"]
    seen = json.loads(done("predict", "d.safetensors", "im/0.png", *MODEL, "--views", "flip", "--json"))
    assert seen[0]["predictions"][0]["value"] != plain
    assert "views" in refused("predict", "d.safetensors", "im/0.png", *MODEL, "--views", "3")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ordnal", None, None), "near names: ordinal"),
        (("ordinal", None, "metric"), "expected one of them"),
        (("ordinal", "years", None), "belong to a regression"),
    ],
)
def test_objectives_that_can_not_be(words: Any, said: str) -> None:
    with pytest.raises(MethodError, match=said):
        chosen_objective(*words)


def test_quantiles_are_of_one_column(tmp_path: Path) -> None:
    table = str(ages(tmp_path))
    header = {"task": "regression", "labels": ["age q0.1", "age q0.9"], "quantiles": [0.1, 0.9]}
    assert columns_of_labels(header, table, {}) == {"targets": ["age"]}
    assert columns_of_labels(header, table, {"targets": "weight_kg"}) == {"targets": "weight_kg"}
    assert columns_of_labels({**header, "labels": ["x"], "quantiles": None}, table, {"group": None}) == {"group": None}
