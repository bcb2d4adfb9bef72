"""``petl advise``, run in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import petl
from tests.support.commands import bright_and_dark, call, refused


@pytest.fixture
def backbone(tmp_path: Path) -> str:
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    return f"test_resnet:{tmp_path / 'weights.safetensors'}"


def test_it_says_the_advice_and_writes_it(tmp_path: Path, backbone: str) -> None:
    bright_and_dark(tmp_path / "pets", 6)
    done = call("advise", backbone, tmp_path / "pets", "--size", 64, "--out", tmp_path / "advice.json")
    assert done.exit_code == 0, done.output
    assert "12 images of 2 classes" in done.stdout and "To try" in done.stdout
    found = json.loads((tmp_path / "advice.json").read_text())
    assert found["kind"] == "advice" and found["facts"]["per_class"] == {"bright": 6, "dark": 6}
    assert "exists" in refused("advise", backbone, tmp_path / "pets", "--out", tmp_path / "advice.json")


@pytest.mark.deep
def test_it_takes_a_delta_and_prints_json(tmp_path: Path, backbone: str) -> None:
    bright_and_dark(tmp_path / "pets", 4)
    model = petl.wrap(timm.create_model("test_resnet"), "norm", num_classes=2)
    petl.save(model, tmp_path / "delta.safetensors", labels=["bright", "dark"])
    refused("advise", tmp_path / "delta.safetensors", tmp_path / "pets", "--arg", "img_size=4")
    done = call("advise", backbone, tmp_path / "pets", "--new", tmp_path / "pets" / "dark", "--json", "--size", 64)
    assert done.exit_code == 0 and json.loads(done.stdout)["new"]["duplicates"] == 4


def test_one_class_is_one_line(tmp_path: Path, backbone: str) -> None:
    bright_and_dark(tmp_path / "pets", 4)
    for file in (tmp_path / "pets" / "dark").glob("*.png"):
        file.unlink()
    (tmp_path / "pets" / "dark").rmdir()
    assert "two classes" in refused("advise", backbone, tmp_path / "pets")


@pytest.mark.deep
def test_commands_take_weights_without_a_classifier(tmp_path: Path) -> None:
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), tmp_path / "bare.safetensors")
    bright_and_dark(tmp_path / "pets", 6)
    name, delta = f"test_resnet:{tmp_path / 'bare.safetensors'}", tmp_path / "delta.safetensors"
    assert call("advise", name, tmp_path / "pets", "--size", 64).exit_code == 0
    assert call("plan", name, "-m", "norm", "--num-classes", 2).exit_code == 0
    done = call("train", tmp_path / "pets", "--model", name, "-m", "probe", "--size", 64, "--out", delta)
    assert done.exit_code == 0, done.output
    assert call("eval", delta, tmp_path / "pets", "--model", name).exit_code == 0
    words = [
        "compare",
        name,
        tmp_path / "pets",
        "-m",
        "bias",
        "--size",
        64,
        "--seconds",
        0,
        "--epochs",
        1,
        "--seeds",
        1,
    ]
    assert "images that chose nothing" in call(*words).stdout
