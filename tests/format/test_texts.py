"""JSON that any reader takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from petl.cli.phrases import as_json_text
from petl.format.texts import json_text


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), {"a": [1.0, float("nan")]}, (float("inf"),)]
)
@pytest.mark.parametrize("text", [json_text, as_json_text])
def test_numbers_that_json_has_not_are_null(text: Any, value: Any) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    assert "null" in text(value) and json.loads(text(value), parse_constant=refuse) != value


def test_objects_of_other_kinds_too() -> None:
    found = json_text({"weights": torch.tensor([1.0, float("inf")]), "path": 3}, default=lambda other: other.tolist())
    assert json.loads(found) == {"weights": [1.0, None], "path": 3}
