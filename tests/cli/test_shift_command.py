"""``petl shift``, ``petl correct`` and ``petl eval --calibrate``, one after the other on one delta."""

from __future__ import annotations

import json
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file

import petl
from tests.support.commands import bright_and_dark, call, refused

MODEL = ("--model", "test_resnet:base.safetensors")


def delta() -> None:
    model = petl.wrap(timm.create_model("test_resnet", checkpoint_path="base.safetensors"), "probe", num_classes=2)
    petl.record(model).pipeline = petl.data.pipeline(model, size=32)  # type: ignore[union-attr]  # wrapped
    images = petl.data.dataset("pets", petl.record(model).pipeline)  # type: ignore[union-attr]
    petl.fit(model, images, start="probe", epochs=1, progress=False)
    petl.save(model, "d.safetensors", labels=["bright", "dark"])


def test_from_the_shift_to_the_corrected_delta_and_back(here: Path) -> None:
    bright_and_dark(here / "new", 12, seed=1)
    for number in range(2, 12):
        (here / "new" / "dark" / f"{number}.png").rename(here / "new" / "bright" / f"dark{number}.png")
    flat = here / "flat"
    flat.mkdir()
    for file in sorted((here / "new").rglob("*.png")):
        file.rename(flat / f"{file.parent.name}-{file.name}")
    delta()
    done = call("shift", "d.safetensors", "pets", "flat", *MODEL, "--out", "shift.json", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found == json.loads(Path("shift.json").read_text()) and found["target_images"] == 24
    assert "shift.json exists" in refused("shift", "d.safetensors", "pets", "flat", *MODEL, "--out", "shift.json")
    done = call("correct", "d.safetensors", "--shift", "shift.json", "--out", "c.safetensors", *MODEL)
    assert done.exit_code == 0, done.output
    header = petl.read("c.safetensors")
    assert header["correction"]["target"] == found["correction"]["target"] and header["temperature"] > 0
    assert "temperature" in call("inspect", "c.safetensors").output
    done = call("correct", "c.safetensors", "--undo", "--out", "u.safetensors", *MODEL)
    assert done.exit_code == 0, done.output
    assert Path("u.safetensors").read_bytes() == Path("d.safetensors").read_bytes()
    assert "isn't corrected" in refused("correct", "d.safetensors", "--undo", "--out", "x.safetensors", *MODEL)
    for words in ((), ("--undo", "--shift", "shift.json")):
        assert "expected one of" in refused("correct", "d.safetensors", "--out", "x.safetensors", *words, *MODEL)
    assert not Path("x.safetensors").exists()


def test_a_temperature_is_kept_in_the_delta(here: Path) -> None:
    bright_and_dark(here / "more", 12, seed=2)
    delta()
    tensors = load_file("d.safetensors")
    done = call("eval", "d.safetensors", "more", *MODEL, "--calibrate", "--json")
    assert done.exit_code == 0, done.output
    temperature = json.loads(done.stdout)["calibration"]["temperature"]
    assert petl.read("d.safetensors")["temperature"] == temperature
    after = load_file("d.safetensors")
    assert all(torch.equal(tensors[key], after[key]) for key in tensors)
    answers = json.loads(call("predict", "d.safetensors", "more/dark/0.png", *MODEL, "--json", "--all").stdout)
    model = petl.load("d.safetensors", timm.create_model("test_resnet", checkpoint_path="base.safetensors"))
    row = petl.predict(model, "more/dark/0.png", progress=False)[0]
    assert answers[0]["predictions"][0]["confidence"] == row["confidence"]
    assert "20 or more" in refused("eval", "d.safetensors", "pets", *MODEL, "--calibrate")
