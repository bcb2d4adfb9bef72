"""`petl.start`: from a folder to a delta, its report and every number, whatever the time allows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.utils.data import TensorDataset
from typer.testing import CliRunner

import petl
from petl.cli.app import app
from petl.cli.models import load_delta
from petl.start import way
from petl.start.backbones import Backbones
from petl.start.parts import StartParts
from petl.training.held_out import images_to_measure
from petl.training.run_file import split_beside
from petl.trials.too_little import TooLittleTime
from tests.support.compare import equal, state

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def striped(folder: Path, each: int = 12, seed: int = 0) -> Path:
    """Two classes of images that differ in colour and texture, so that any method finds them."""
    rng = np.random.default_rng(seed)
    for name, colour in (("cat", (200, 40, 40)), ("dog", (40, 40, 200))):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            noise = rng.integers(0, 50, (32, 32, 3))
            Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(
                folder / name / f"{number}.png"
            )
    return folder


def small(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return timm.create_model(name).eval()


def gone_the_way(data: Any, **options: Any) -> Any:
    return petl.start(data, **{"minutes": 0.2, "size": 32, "progress": False, **options})


@pytest.mark.deep
def test_a_folder_becomes_a_delta_with_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"a": small("test_resnet"), "b": small("test_efficientnet", 1)}
    before = {name: state(model) for name, model in models.items()}
    torch.manual_seed(5)
    draw = torch.rand(1)
    torch.manual_seed(5)
    started = gone_the_way(striped(tmp_path / "pets"), models=models)
    assert torch.equal(torch.rand(1), draw)  # nobody's random numbers were used up
    assert all(equal(before[name], state(model)) for name, model in models.items())
    assert {path.name for path in tmp_path.iterdir()} == {"pets", "pets.safetensors", "pets.html", "pets.json"}
    assert {"rank", "advise"} <= {*started.findings} and started.backbone in models
    assert started.images == 4 and started.told_is == "fifth" and 0 <= started.score <= 1
    assert split_beside(tmp_path / "pets.safetensors") == started.held_out
    found, which = images_to_measure(
        tmp_path / "pets.safetensors", str(tmp_path / "pets"), {"input_size": (3, 32, 32)}, split=None
    )
    assert len(found) == 4 and "held out" in which
    numbers = json.loads((tmp_path / "pets.json").read_text())
    assert numbers["kind"] == "report" and numbers["start"]["findings"]["advise"]["kind"] == "advice"
    assert json.loads(json.dumps(started.to_json()))["score"] == started.score
    assert f"{started.score:.3f}" in str(started) and "petl predict" in str(started)
    save_file(models[started.backbone].state_dict(), tmp_path / "weights.safetensors")
    line = started.next[0].partition("  #")[0].replace("NEW", str(tmp_path / "pets"))
    words = line.replace(":WEIGHTS", f":{tmp_path / 'weights.safetensors'}").replace("predictions", str(tmp_path / "p"))
    assert CliRunner().invoke(app, words.split()[1:]).exit_code == 0 and (tmp_path / "p.csv").exists()
    model = petl.load(tmp_path / "pets.safetensors", models[started.backbone])
    assert petl.record(model).labels == ["cat", "dog"] and petl.record(model).results["accuracy"] == started.score  # type: ignore[union-attr]
    with pytest.raises(petl.StateError, match="exists"):
        gone_the_way(tmp_path / "pets", models=models)


@pytest.mark.deep
def test_without_time_for_a_comparison_the_first_advice_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_little(*args: Any, **options: Any) -> Any:
        raise TooLittleTime("seconds=1 isn't enough; more")

    monkeypatch.setattr(way, "compare", too_little)
    folder = striped(tmp_path / "t" / "train")
    striped(tmp_path / "t" / "val", 6, seed=1)
    started = gone_the_way(folder.parent, models=small("test_resnet"), out=tmp_path / "out" / "run")
    assert started.skipped == {"rank": "there is one backbone", "compare": "seconds=1 isn't enough"}
    assert started.told_is == "own" and started.images == 12
    assert (tmp_path / "out" / "run.html").exists() and "compare" not in started.findings
    assert started.held_out is None and split_beside(tmp_path / "out" / "run.safetensors") is None


def test_a_comparison_that_took_all_its_time_to_be_refused_is_not_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, tries = [0.0], []

    def slow(*args: Any, seconds: float, margin: float, **options: Any) -> Any:
        assert margin == 0.01  # who starts wants accuracy
        tries.append(seconds)
        clock[0] += 0.7 * tries[0]
        raise TooLittleTime("seconds=1 isn't enough; more")

    monkeypatch.setattr(way, "compare", slow)
    monkeypatch.setattr(way.time, "perf_counter", lambda: clock[0])
    one = way.Way(None, Backbones({}), way.Budget(10.0), None, None, 0, 0, False, {})  # type: ignore[arg-type]  # no file is written
    parts = StartParts(None, None, None, False, None, 2)
    assert one.compared(small("test_resnet"), parts, {"norm": [petl.Norm()], "bias": [petl.Bias()]}) is None
    assert tries[1] == pytest.approx(0.3 * tries[0], abs=0.1) and "isn't enough" in one.skipped["compare"]


def test_bad_input_is_refused_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = striped(tmp_path / "pets", 2)
    with pytest.raises(petl.DataError, match="4 images of each class"):
        gone_the_way(folder, models=small("test_resnet"))
    with pytest.raises(petl.DataError, match="no such|not there|exist"):
        gone_the_way(tmp_path / "none", models=small("test_resnet"))
    with pytest.raises(petl.StateError, match="has no name"):
        gone_the_way(TensorDataset(torch.zeros(8, 3, 32, 32), torch.arange(8) % 2), models=small("test_resnet"))
    with pytest.raises(petl.PetlError, match="timm has no model 'nonet'"):
        gone_the_way(folder, models=["nonet", "test_resnet"])
    for models in ([], 5, [5], petl.wrap(small("test_resnet"), "norm")):
        with pytest.raises(petl.PetlError):
            gone_the_way(folder, models=models)
    assert {path.name for path in tmp_path.iterdir()} == {"pets"}


def test_options_that_name_weights_again(tmp_path: Path) -> None:
    file = tmp_path / "a b.safetensors"
    file.touch()
    asked = Backbones.of([f"resnet18:{file}", "resnet18"])
    assert asked.option("resnet18") == "" and asked.option(f"resnet18:{file}") == f" --model 'resnet18:{file}'"
    assert Backbones.of("demo").option("demo") == " --model demo"
    assert Backbones.of({"a": small("test_resnet")}).option("a") == " --model :WEIGHTS"  # timm's would be others
    assert type(Backbones.of("demo").build("demo", None)).__name__ == "EfficientNet"


def test_the_commands_that_it_prints_find_weights_without_a_classifier(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    bare = timm.create_model("test_resnet", num_classes=0)
    save_file(bare.state_dict(), file)
    model = petl.wrap(Backbones.of(f"test_resnet:{file}").build(f"test_resnet:{file}", None), "norm", num_classes=3)
    delta = petl.save(model, tmp_path / "delta.safetensors")
    images = torch.randn(2, 3, 64, 64)
    again, _ = load_delta(delta, f"test_resnet:{file}")
    with torch.no_grad():
        assert torch.equal(again(images), model.eval()(images))
    save_file({"odd": torch.zeros(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(petl.StateError, match="timm can't build"):
        load_delta(delta, f"test_resnet:{tmp_path / 'odd.safetensors'}")


@pytest.mark.deep
def test_the_command_goes_the_whole_way(tmp_path: Path) -> None:
    folder = striped(tmp_path / "pets")
    result = CliRunner().invoke(app, ["start", str(folder), "--minutes", "0.3", "--size", "48", "--model", "demo"])
    assert result.exit_code == 0, result.output
    assert "images that chose nothing" in result.output and "--model demo" in result.output
    again = CliRunner().invoke(app, ["predict", f"{folder}.safetensors", str(folder / "cat"), "--model", "demo"])
    assert again.exit_code == 0 and "cat" in again.output
    measured = CliRunner().invoke(app, ["eval", f"{folder}.safetensors", str(folder), "--model", "demo"])
    assert "(n=4)" in measured.output and "the 4 images" in measured.output  # not those that it was trained on
