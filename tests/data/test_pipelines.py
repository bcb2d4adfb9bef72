"""What a model's images look like: size, mean and standard deviation for any number of channels."""

from __future__ import annotations

import pytest
import timm
import torch

import petl.data as data
from petl.wrapping.lookup import record
from petl.wrapping.wrap import wrap


def test_pipeline_is_timms_for_three_channels() -> None:
    model = timm.create_model("test_vit")
    assert data.pipeline(model) == timm.data.resolve_model_data_config(model)


@pytest.mark.parametrize(
    ("k", "mean"),
    [(1, (0.449,)), (2, (0.449, 0.449)), (4, (0.485, 0.456, 0.406, 0.449)), (5, (0.485, 0.456, 0.406, 0.449, 0.449))],
)
def test_mean_of_other_channels(k: int, mean: tuple[float, ...]) -> None:
    model = wrap(
        timm.create_model("test_resnet", pretrained_cfg_overlay={"mean": (0.485, 0.456, 0.406)}), "input", in_chans=k
    )
    found = data.pipeline(model)
    assert found["input_size"] == (k, 160, 160)
    assert found["mean"] == pytest.approx(mean)
    assert len(found["std"]) == k


def test_pipeline_knows_the_size_that_the_model_was_built_for() -> None:
    model = timm.create_model("test_vit", img_size=96)
    assert data.pipeline(model)["input_size"] == (3, 96, 96)  # timm's own config says 160
    assert data.pipeline(model, size=(64, 32))["input_size"] == (3, 64, 32)
    model(torch.zeros(1, *data.pipeline(model)["input_size"]))


def test_pipeline_of_a_delta_comes_first() -> None:
    model = wrap(timm.create_model("test_resnet"), "probe")
    stored = {"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0], "interpolation": "bilinear"}
    record(model).pipeline = {**stored, "crop_pct": 1.0, "crop_mode": "center"}  # type: ignore[union-attr]
    assert data.pipeline(model)["mean"] == (0.1, 0.2, 0.3)
    assert data.pipeline(model)["input_size"] == (3, 32, 32)
