"""Arguments of backbones that a delta can't record."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

import petl
from tests.support.small_delta import NAME

UNRECORDABLE: list[dict[str, Any]] = [
    {"norm_layer": print}, {"cache_dir": "x"}, {"x": torch.ones(1)}, {"depth": 10**12}, {3: 4}, {"act_layer": "a/b"},
]  # fmt: skip


@pytest.mark.parametrize("given", UNRECORDABLE, ids=str)
def test_create_args_are_refused_at_wrap(given: dict[str, Any]) -> None:
    model = timm.create_model(NAME)
    with pytest.raises(petl.MethodError, match="create_args"):
        petl.wrap(model, "bias", create_args=given)
    assert petl.record(model) is None


def test_create_args_that_are_no_dict_are_refused() -> None:
    with pytest.raises(petl.MethodError, match="create_args"):
        petl.wrap(timm.create_model(NAME), "bias", create_args=[1])  # type: ignore[arg-type]  # on purpose
