"""What predict and eval say, by task, about good and bad files, and which images eval measures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import petl
from petl.training.run_file import read_run_file, run_file_beside
from tests.support.commands import bright_and_dark, call, refused
from tests.support.delta_files import edit

NAME = "test_resnet"
MODEL = ("--model", f"{NAME}:base.safetensors")


def delta(outputs: int, **given: Any) -> petl.Metrics | Any:
    """A delta whose model answers 4, 5, 6 ... for every image."""
    model = petl.wrap(timm.create_model(NAME, checkpoint_path="base.safetensors"), "probe", num_classes=outputs)
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.copy_(torch.arange(outputs) + 4.0)
    petl.record(model).pipeline = petl.data.pipeline(model, size=32)
    return petl.save(model, "d.safetensors", **given)


def predicted(*words: Any) -> Any:
    done = call("predict", "d.safetensors", "pets/dark/0.png", *MODEL, "--json", *words)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)[0]["predictions"]


def test_a_multilabel_delta_answers_by_the_sigmoid(here: Path) -> None:
    delta(2, labels=["sun", "sea"], task="multilabel")
    sure = {"sea": torch.tensor(5.0).sigmoid().item(), "sun": torch.tensor(4.0).sigmoid().item()}
    for words in ((), ("--top", 2)):
        assert {p["label"]: pytest.approx(p["confidence"], abs=1e-5) for p in predicted(*words)} == sure
    assert [p["label"] for p in predicted("--top", 1)] == ["sea"]
    assert "multilabel" in refused("eval", "d.safetensors", "pets", *MODEL)


@pytest.mark.sweep(2)
@pytest.mark.parametrize(("outputs", "given"), [(1, {"task": "regression"}), (2, {"task": "regression"}), (1, {})])
def test_numbers_stay_numbers(outputs: int, given: dict[str, Any], here: Path) -> None:
    delta(outputs, **given)
    assert predicted() == [{"label": str(i), "value": pytest.approx(4.0 + i)} for i in range(outputs)]
    shown = call("predict", "d.safetensors", "pets/dark/0.png", *MODEL).output
    assert "value" in shown and "confidence" not in shown and "%" not in shown
    assert any(word in refused("eval", "d.safetensors", "pets", *MODEL) for word in ("classification", "has a class"))


def test_what_is_no_answer_is_refused(here: Path) -> None:
    words = ("predict", delta(2), "pets/dark/0.png", *MODEL)
    edit(Path("d.safetensors"), lambda header: {"task": "segmentation"})
    assert "upgrade" in refused(*words) and "upgrade" in refused("eval", *words[1:2], "pets", *MODEL)
    edit(Path("d.safetensors"), lambda header: {"task": "multilabel", "thresholds": [0.5]})
    assert "1 thresholds" in refused(*words)


def test_units_and_thresholds_of_the_header_are_used(here: Path) -> None:
    delta(2, labels=["w", "h"])
    edit(Path("d.safetensors"), lambda header: {"task": "regression", "units": ["kg", "cm"]})
    assert [row["units"] for row in predicted()] == ["kg", "cm"]
    assert "5 cm" in call("predict", "d.safetensors", "pets/dark/0.png", *MODEL).stdout
    edit(Path("d.safetensors"), lambda header: {"task": "multilabel", "units": None, "thresholds": [0.5, 0.999]})
    assert [row["label"] for row in predicted()] == ["w"]
    edit(Path("d.safetensors"), lambda header: {"task": "multilabel", "units": None, "thresholds": [0.999, 0.999]})
    assert predicted() == [] and "thresholds" in call("predict", "d.safetensors", "pets/dark/0.png", *MODEL).stdout


def test_a_bad_file_costs_predict_that_file_alone(here: Path) -> None:
    delta(2, labels=["cat [small]", "[/bold] :smile:"])
    Path("bad\x1b[31m.png").write_bytes(b"\x89PNG")
    words = ("predict", "d.safetensors", "pets/dark/0.png", "bad\x1b[31m.png", "gone.png", "pets/dark/1.png", *MODEL)
    done = call(*words, "--json")
    assert done.exit_code == 0
    assert [one["image"] for one in json.loads(done.stdout)] == ["pets/dark/0.png", "pets/dark/1.png"]
    assert "bad\\x1b[31m.png" in done.stderr and "gone.png" in done.stderr and "skipped 2 of 4 images" in done.stderr
    assert "[/bold] :smile:" in call(*words).stdout and "\x1b" not in call(*words).output
    assert "bad\\x1b" in refused(*words, "--strict")
    assert "none of the 2 images" in refused("predict", "d.safetensors", "bad\x1b[31m.png", "gone.png", *MODEL)


def test_a_bad_file_costs_eval_that_file_alone(here: Path) -> None:
    delta(2, labels=["bright", "dark"])
    Path("pets/dark/5.png").write_bytes(b"\x89PNG")
    Path("pets/dark/6\x1b[2J.png").write_bytes(b"\x89PNG")
    done = call("eval", "d.safetensors", "pets", *MODEL, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [c["images"] for c in found["classes"]] == [5, 5] and found["accuracy"] == 0.5
    assert "5.png" in done.stderr and "6\\x1b[2J.png" in done.stderr and "\x1b" not in done.stderr
    assert "5.png" in refused("eval", "d.safetensors", "pets", *MODEL, "--strict")


TRAIN = (*MODEL, "-m", "probe", "--size", 32, "--epochs", 2, "--batch-size", 4, "--lr", 0.01)


def measured(*words: Any) -> dict[str, Any]:
    done = call("eval", "t.safetensors", *words, *MODEL, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.deep
def test_eval_measures_what_the_training_held_out(here: Path) -> None:
    """The figures are those of the training's best epoch, whichever way the folder is named; other folders are whole."""
    bright_and_dark(here / "both" / "train", 5, seed=1)
    bright_and_dark(here / "both" / "test", 3, seed=2)
    done = call("train", "both", "--out", "t.safetensors", *TRAIN)
    assert done.exit_code == 0, done.output
    best = petl.read("t.safetensors")["results"]
    for words in (("both",), ("both/train",), ("both", "--split", "held-out")):
        found = measured(*words)
        assert sum(c["images"] for c in found["classes"]) == 2
        assert found["loss"] == pytest.approx(best["loss"], rel=1e-5) and "held out" in found["measured"]
    assert sum(c["images"] for c in measured("both", "--split", "test")["classes"]) == 6
    assert sum(c["images"] for c in measured("both", "--split", "all")["classes"]) == 16
    assert sum(c["images"] for c in measured("both/test")["classes"]) == 6
    assert sum(c["images"] for c in measured("pets")["classes"]) == 10  # names as in training, other images
    assert "held out" in refused("eval", "t.safetensors", "pets", "--split", "held-out", *MODEL)
    held = read_run_file("t.safetensors")["split"]["files"]
    Path("both", next(iter(held))).unlink()
    assert "--split all" in refused("eval", "t.safetensors", "both", *MODEL)
    run_file_beside("t.safetensors").write_text("{")
    assert "t.history.json" in refused("eval", "t.safetensors", "both", *MODEL)


def test_eval_takes_val_where_there_is_one_and_never_training_images_unasked(here: Path) -> None:
    shutil.copytree("pets", "all/train")
    bright_and_dark(here / "all" / "val", 2, seed=3)
    assert call("train", "all", "--out", "t.safetensors", *TRAIN).exit_code == 0
    assert read_run_file("t.safetensors")["split"] is None
    assert sum(c["images"] for c in measured("all")["classes"]) == 4
    shutil.move("all/val", "all/test")
    assert sum(c["images"] for c in measured("all")["classes"]) == 4
    shutil.rmtree("all/test")
    assert "train" in refused("eval", "t.safetensors", "all", *MODEL)


@pytest.mark.deep
def test_tables_train_and_are_measured_as_folders_are(here: Path) -> None:
    """By their own splits, else on what the training held out, whole groups of it; --val takes another table."""
    files = [(kind, f"pets/{kind}/{i}.png", i) for kind in ("bright", "dark") for i in range(5)]
    lines = [f"{file};{kind};p{i};{'val' if i > 3 else 'train'}" for kind, file, i in files]
    Path("split.csv").write_text("\r\n".join(["path;label;patient;split", *lines]), encoding="utf-8-sig")
    assert call("train", "split.csv", "--out", "t.safetensors", *TRAIN).exit_code == 0
    assert read_run_file("t.safetensors")["split"] is None
    found = measured("split.csv")
    assert (found["measured"], sum(c["images"] for c in found["classes"])) == ("val of split.csv", 2)
    assert sum(c["images"] for c in measured("split.csv", "--split", "all")["classes"]) == 10
    whole = ["photo,kind,owner", *(f"{file},{kind},p{i}" for kind, file, i in files)]
    Path("whole.csv").write_text("\n".join(whole))
    assert "petl train: --data label=..." in refused(
        "train", "whole.csv", "--out", "u.safetensors", *TRAIN, "--data", "path=photo"
    )
    said = [word for key in ("path=photo", "label=kind") for word in ("--data", key)]
    train = ("train", "whole.csv", *TRAIN, *said, "--data", "group=owner")
    assert call(*train, "--out", "t.safetensors", "--overwrite").exit_code == 0
    held = read_run_file("t.safetensors")["split"]["files"]
    assert len(held) == 2 and len({Path(name).name for name in held}) == 1  # one owner's
    assert "held out" in measured("whole.csv", *said)["measured"]
    assert call(*train, "--out", "v.safetensors", "--val", "pets").exit_code == 0
    assert call("train", "pets", *TRAIN, "--out", "w.safetensors", "--val", "split.csv").exit_code == 0


def test_the_runs_file_has_settings_and_history(here: Path) -> None:
    assert call("train", "pets", "--out", "t.safetensors", *TRAIN).exit_code == 0
    run = read_run_file("t.safetensors")
    assert run["settings"]["epochs"] == 2 and run["settings"]["lr"] == 0.01
    assert [row["epoch"] for row in run["history"]["rows"]] == [1, 2]
    assert run["history"]["best"] == petl.read("t.safetensors")["results"]
    assert len(run["split"]["files"]) == run["split"]["held_out"] == 2


def test_images_that_train_are_not_held_out(here: Path) -> None:
    from petl.training.held_out import held_out_files

    images = petl.data.dataset("pets", petl.data.pipeline(timm.create_model(NAME), size=32))
    train, val = petl.data.holdout(images)
    assert held_out_files(train, val)["held_out"] == 2
    first, second = torch.utils.data.random_split(images, [7, 3])  # k-fold is made of these
    assert held_out_files(first, second)["held_out"] == 3
    assert held_out_files(images, images) is None and held_out_files(images, val) is None
    other = petl.data.dataset("pets", petl.data.pipeline(timm.create_model(NAME), size=32))
    assert held_out_files(train, other) is None and held_out_files("pets", None) is None
