"""Deltas of many kinds on one backbone, images for them, and what a server should answer."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

import petl
from tests.support.zoo import disturb, make

BASE = "resnet"
KINDS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {  # name -> methods, what the record says, the pipeline
    "pets": ("probe", {"labels": ["cat", "dog", "eel"], "temperature": 2.0}, {}),
    "birds": (petl.LoRA(rank=2), {}, {"size": 96, "mean": 0.3}),
    "tags": ("norm", {"task": "multilabel", "labels": ["a", "b", "c"], "thresholds": [0.1, 0.2, 0.9]}, {}),
    "age": ("bias", {"task": "regression", "units": "years", "outputs": 1}, {}),
    "look": ("probe", {"task": "metric"}, {}),
    "scan": ([petl.Input(in_chans=1), "norm"], {}, {"size": 48}),
    "bands": ([petl.Input(in_chans=12), "lora"], {}, {}),
}


def delta(kind: str, seed: int = 0) -> nn.Module:
    """A model with one of the kinds of deltas, as after a training."""
    methods, said, reading = KINDS[kind]
    said = {**said}
    model = disturb(petl.wrap(make(BASE), methods, num_classes=said.pop("outputs", 3)), seed=seed).eval()
    record: Any = petl.record(model)
    for key, value in said.items():
        setattr(record, key, value)
    record.pipeline = petl.data.pipeline(model, **{"size": 64, **reading})
    return model


def write(folder: Path, kind: str, seed: int = 0, name: str | None = None) -> nn.Module:
    """Writes such a delta, whole at once; returns the model."""
    model = delta(kind, seed)
    petl.save(model, folder / f"{name or kind}.safetensors")
    return model


def image(kind: str, seed: int = 0) -> bytes:
    """The bytes of an image file that suits a kind of delta: colours, gray, or twelve bands."""
    chance = np.random.default_rng(seed)
    if kind == "bands":
        file = io.BytesIO()
        np.save(file, chance.random((12, 64, 64), dtype=np.float32))
        return file.getvalue()
    shape = (70, 80) if kind == "scan" else (90, 80, 3)
    return encoded(Image.fromarray(chance.integers(0, 255, shape, dtype=np.uint8)))


def encoded(picture: Image.Image, form: str = "png") -> bytes:
    file = io.BytesIO()
    picture.save(file, form)
    return file.getvalue()


def expected(model: nn.Module, data: bytes, **options: Any) -> dict[str, Any]:
    """What `petl.predict` answers for the image alone."""
    row = petl.predict(model, data, progress=False, **{"probabilities": False, **options})[0]
    return {key: value for key, value in row.items() if key != "image"}


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Both answers have the same words, and numbers that are equal up to rounding."""
    found = {key: value for key, value in found.items() if key != "task"}
    assert [*found] == [*wanted]
    for key, value in wanted.items():
        assert found[key] == (value if isinstance(value, str) else _near(value)), key


def _near(value: Any) -> Any:
    if isinstance(value, list) and value and not isinstance(value[0], float):
        return [{**one, "confidence": _near(one["confidence"])} if isinstance(one, dict) else one for one in value]
    return pytest.approx(value, rel=1e-4, abs=2e-5) if value != [] else []
