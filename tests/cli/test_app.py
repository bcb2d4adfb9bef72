"""The commands, on timm's small models with their weights in a file: offline and fast."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import petl
from petl.cli import data_options
from tests.support.commands import call, refused

COMMANDS = ("train", "eval", "predict", "plan", "inspect", "merge", "compare", "methods", "demo")
NAME = "test_resnet"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "base.safetensors"
    save_file(timm.create_model(NAME).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that a glance tells apart: dark and bright; eight of each to train on, four to validate."""
    folder, noise = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for name, level in (("bright", 200), ("dark", 40)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = (level + noise.integers(0, 40, (40, 40))).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def delta(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A delta with a gray input adapter, BN and LoRA, moved away from its start."""
    torch.manual_seed(1)
    base = timm.create_model(NAME, checkpoint_path=str(weights))
    model = petl.wrap(base, [petl.Input(in_chans=1), "bn", petl.LoRA(rank=4)], num_classes=2)
    with torch.no_grad():
        for parameter in petl.trainable(model).values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    petl.record(model).pipeline = petl.data.pipeline(model, size=64)
    return petl.save(model, tmp_path_factory.mktemp("delta") / "d.safetensors", labels=["bright", "dark"])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    done = call(command, "--help")
    assert done.exit_code == 0
    assert f"Example: petl {command}" in " ".join(done.output.split())


def test_help_lists_every_command() -> None:
    listed = call("--help").output
    assert all(f"\n  {command} " in listed for command in COMMANDS)


def test_methods_lists_every_method_with_its_options() -> None:
    done = call("methods")
    assert done.exit_code == 0
    assert all(name in done.output for name in petl.methods())
    assert "rank=8" in done.output and "in_chans=1" in done.output


def test_plan_shows_what_would_train() -> None:
    done = call("plan", NAME, "-m", "lora", "-m", "input", "--rank", 4, "--in-chans", 1, "--num-classes", 5, "--sites")
    expected = petl.wrap(timm.create_model(NAME), [petl.LoRA(rank=4), petl.Input(in_chans=1)], num_classes=5)
    assert done.exit_code == 0
    assert f"{petl.summary(expected).trainable:,}" in done.output
    assert all(name in done.output for name in petl.record(expected).sites[0])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan", NAME, "-m", "loar"], "near names: lora"),
        (["plan", NAME, "--set", "rnk=3"], "near names: rank"),
        (["plan", NAME, "--set", "rank"], "KEY=VALUE"),
        (["plan", NAME, "--set", "bn.affine=false"], "no option 'bn.affine' in norm, lora"),
        (["plan", NAME, "--rank", "0"], "rank=0"),
        (["plan", NAME, "--set", "rank=many"], "many"),
        (["plan", NAME, "--arg", "no_such=1"], "no_such"),
        (["plan", "resnet5"], "near names: resnet50"),
        (["plan", "test_vit", "-m", "bn"], "no BatchNorm"),
        (["inspect", "nowhere.safetensors"], "nowhere.safetensors"),
        (["predict", "nowhere.safetensors", "cat.jpg"], "nowhere.safetensors"),
        (["predict"], "Missing argument"),
        (["plan", NAME, "--no-such-option"], "--no-such-option"),
        (["no-such-command"], "no-such-command"),
    ],
)
def test_what_the_user_can_mend_is_one_line(words: list[str], said: str) -> None:
    assert said in refused(*words)


def test_an_error_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(petl, "summary", lambda model: 1 / 0)
    assert isinstance(call("plan", NAME).exception, ZeroDivisionError)


def test_inspect_shows_the_header(delta: Path) -> None:
    assert json.loads(call("inspect", delta, "--json").output) == petl.read(delta)
    shown = call("inspect", delta)
    assert shown.exit_code == 0
    assert f"{delta.stat().st_size:,}" in shown.output and '"bright", "dark"' in shown.output


def test_inspect_refuses_other_files(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no tensors")
    assert "no petl delta" in refused("inspect", weights)
    assert "safetensors" in refused("inspect", tmp_path / "text")


def test_predict_gives_the_models_own_answer(delta: Path, weights: Path, pictures: Path) -> None:
    images = sorted(pictures.glob("val/*/*.png"))[:3]
    done = call("predict", delta, *images, "--model", f"{NAME}:{weights}", "--top", 2, "--json")
    assert done.exit_code == 0, done.output
    model = petl.load(delta, timm.create_model(NAME, checkpoint_path=str(weights))).eval()
    pipeline = petl.data.pipeline(model)
    assert pipeline["input_size"] == (1, 64, 64)
    for row, path in zip(json.loads(done.output), images, strict=True):
        with torch.no_grad():
            expected = model(petl.data.image(path, pipeline)[None]).softmax(1)[0]
        assert row["image"] == str(path)
        assert {p["label"]: pytest.approx(p["confidence"], abs=1e-6) for p in row["predictions"]} == {
            "bright": float(expected[0]),
            "dark": float(expected[1]),
        }
        assert row["predictions"][0]["confidence"] >= row["predictions"][1]["confidence"]


def test_predict_prints_a_table(delta: Path, weights: Path, pictures: Path) -> None:
    image = next(pictures.glob("val/dark/*.png"))
    done = call("predict", delta, image, "--model", f":{weights}")
    assert done.exit_code == 0, done.output
    assert "bright" in done.output or "dark" in done.output
    assert "%" in done.output


def test_predict_names_the_image_that_is_none(delta: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    assert "broken.png" in refused("predict", delta, tmp_path / "broken.png", "--model", f"{NAME}:{weights}")


def test_other_weights_are_refused(delta: Path, pictures: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    save_file(timm.create_model(NAME).state_dict(), tmp_path / "other.safetensors")
    image = next(pictures.glob("val/dark/*.png"))
    assert "other weights" in refused("predict", delta, image, "--model", f"{NAME}:{tmp_path / 'other.safetensors'}")


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_merge_writes_what_timm_loads(ending: str, delta: Path, weights: Path, tmp_path: Path) -> None:
    merged = tmp_path / "new" / f"merged.{ending}"
    done = call("merge", delta, merged, "--model", f"{NAME}:{weights}")
    assert done.exit_code == 0, done.output
    plain = timm.create_model(NAME, checkpoint_path=str(merged), num_classes=2, in_chans=1).eval()
    model = petl.load(delta, timm.create_model(NAME, checkpoint_path=str(weights))).eval()
    batch = torch.randn(3, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(plain(batch), model(batch))
    assert "num_classes=2" in done.output and "in_chans=1" in done.output


@pytest.mark.deep
def test_train_then_eval_then_predict(weights: Path, pictures: Path, tmp_path: Path) -> None:
    """The main job: the saved delta is what was trained, on the shown images it is right, and eval says the same."""
    base, made = f"{NAME}:{weights}", tmp_path / "made.safetensors"
    words = ["--method", "bn", "--method", "lora", "--rank", 2, "--size", 48, "--epochs", 6, "--lr", 0.01]
    done = call("train", pictures, "--model", base, *words, "--batch-size", 8, "--out", made)
    assert done.exit_code == 0, done.output
    header = petl.read(made)
    assert [m["name"] for m in header["methods"]] == ["bn", "lora"]
    assert header["methods"][1]["rank"] == 2
    assert header["labels"] == ["bright", "dark"]
    assert header["pipeline"]["input_size"][1:] == [48, 48]
    trained, start = load_file(made), load_file(weights)
    assert any(not torch.equal(trained[key], start[key]) for key in trained if key in start)

    shown = call("eval", made, pictures, "--model", base, "--json")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.output)["accuracy"] == 1.0
    images = sorted(pictures.glob("val/*/*.png"))
    answers = json.loads(call("predict", made, *images, "--model", base, "--json").output)
    assert [a["predictions"][0]["label"] for a in answers] == [path.parent.name for path in images]


@pytest.mark.deep
def test_train_needs_no_method_rate_or_epochs(
    weights: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best recipe with its own rates; options go to the methods that have them. What was chosen is printed and recorded."""
    from petl.training import length

    monkeypatch.setattr(length, "MOST_EPOCHS", 2)
    made = tmp_path / "made.safetensors"
    words = ("train", pictures, "--model", f"{NAME}:{weights}", "--size", 32, "--batch-size", 4, "--out", made)
    done = call(*words, "--rank", 2)
    assert done.exit_code == 0, done.output
    assert [(m["name"], m.get("rank")) for m in petl.read(made)["methods"]] == [("norm", None), ("lora", 2)]
    assert "2 epochs of" in done.output
    run = json.loads((tmp_path / "made.history.json").read_text())
    assert run["history"]["epochs"] == 2 and {*run["history"]["rates"]} == {"norm", "lora", "head"}
    done = call(
        *words, "--method", "input", "--method", "best", "--in-chans", 3, "--lr", "x0.5", "--epochs", 1, "--overwrite"
    )
    assert done.exit_code == 0, done.output
    assert [m["name"] for m in petl.read(made)["methods"]] == ["input", "norm", "lora"]
    halved = json.loads((tmp_path / "made.history.json").read_text())["history"]["rates"]
    assert halved["head"] == run["history"]["rates"]["head"] / 2
    assert "'x0.5' or 'find'" in refused(*words, "--lr", "quick", "--overwrite")
    assert "leave one of them out" in refused(*words, "--epochs", 1, "--minutes", 1, "--overwrite")


@pytest.mark.deep
def test_a_vit_takes_its_weights_at_another_image_size(pictures: Path, tmp_path: Path) -> None:
    """As with weights that timm fetches, the position embedding is resampled; the delta's header knows the size."""
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "vit.safetensors")
    base, made = f"test_vit:{tmp_path / 'vit.safetensors'}", tmp_path / "vit-delta.safetensors"
    words = ["--method", "probe", "--arg", "img_size=64", "--epochs", 1, "--out", made]
    done = call("train", pictures, "--model", base, *words)
    assert done.exit_code == 0, done.output
    assert petl.read(made)["pipeline"]["input_size"] == [3, 64, 64]
    shown = call("eval", made, pictures, "--model", base, "--json")
    assert shown.exit_code == 0, shown.output


@pytest.mark.deep
def test_train_is_the_same_again_with_the_same_seed(weights: Path, pictures: Path, tmp_path: Path) -> None:
    """Without a val folder a fifth of the images is held out; options of fit pass through."""
    words = ["--model", f"{NAME}:{weights}", "-m", "bn", "--size", 32, "--epochs", 1, "--batch-size", 4]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        options = [*words, "--seed", seed, "--memory", "min", "--fit", "clip=1"]
        done = call("train", pictures / "train", *options, "--out", tmp_path / name)
        assert done.exit_code == 0, done.output
    a, b, c = (load_file(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


def test_train_refuses_options_that_fit_has_not(weights: Path, pictures: Path, tmp_path: Path) -> None:
    words = ("--model", f"{NAME}:{weights}", "--out", tmp_path / "x.safetensors", "--fit", "patients=3")
    assert "near names: patience" in refused("train", pictures, *words)


def test_train_refuses_a_folder_without_classes(weights: Path, tmp_path: Path) -> None:
    words = ("--model", f"{NAME}:{weights}", "--out", tmp_path / "x.safetensors")
    assert str(tmp_path / "nothing") in refused("train", tmp_path / "nothing", *words)
    assert not (tmp_path / "x.safetensors").exists()


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``day/city``, ``day/sea``, ``night/city``, ``night/sea``: the classes can be read in two ways."""
    folder, noise = tmp_path_factory.mktemp("nested"), np.random.default_rng(0)
    for name in ("day/city", "day/sea", "night/city", "night/sea"):
        (folder / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(noise.integers(0, 255, (40, 60)).astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.deep
def test_data_options_hold_in_training_measuring_and_the_delta(weights: Path, nested: Path, tmp_path: Path) -> None:
    base, made = ("--model", f"{NAME}:{weights}"), tmp_path / "made.safetensors"
    short = ("-m", "probe", "--epochs", 1, "--size", 32, "--out", made)
    assert "petl train ... --data class_from=first" in refused("train", nested, *base, *short)
    words = ["class_from=path", "crop_pct=1", "crop_mode=squash", "mean=0.25,0.5,0.25", "augment=false"]
    data = [word for pair in words for word in ("--data", pair)]
    done = call("train", nested, *base, *short, *data, "--fit", "cache=false")
    assert done.exit_code == 0, done.output
    header = petl.read(made)
    assert header["labels"] == ["day/city", "day/sea", "night/city", "night/sea"]
    assert {"crop_pct": 1, "crop_mode": "squash", "mean": [0.25, 0.5, 0.25]}.items() <= header["pipeline"].items()
    model = petl.load(made, timm.create_model(NAME, checkpoint_path=str(weights))).eval()
    images = petl.data.dataset(nested, petl.data.pipeline(model), split=".", classes=header["labels"])
    shown = call("eval", made, nested, *base, "--split", "all", "--json")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.output)["loss"] == pytest.approx(petl.evaluate(model, images).loss, abs=1e-6)
    other = call("eval", made, nested, *base, "--split", "all", "--json", "--data", "mean=0.9")
    assert json.loads(other.output)["loss"] != json.loads(shown.output)["loss"]


def test_augmentation_is_what_was_asked_for() -> None:
    known = data_options.PIPELINE | data_options.DATASET | data_options.TRAINING
    assert data_options.data_keywords(["augment=false"], known=known).training == {"augment": False}
    assert data_options.data_keywords(["augment=true"], known=known).training == {}
    found = data_options.data_keywords(
        ["augment.scale=0.8,1", "augment.hflip=0", "split=2024", "size=48,64"], known=known
    )
    assert found.training == {"augment": {"scale": [0.8, 1], "hflip": 0}, "split": "2024"}
    assert found.pipeline == {"size": (48, 64)}
    found = data_options.data_keywords(["labels=1,2", "targets=age", "group=null", "label=007"], known=known)
    assert found.dataset == {"labels": ["1", "2"], "targets": "age", "group": None, "label": "007"}


@pytest.mark.deep
def test_windows_statistics_sampling_and_views(weights: Path, pictures: Path, tmp_path: Path) -> None:
    base, made = ("--model", f"{NAME}:{weights}"), tmp_path / "made.safetensors"
    data = ("--data", "window=-600,1500", "--data", "frame=middle", "--data", f"statistics={pictures}")
    done = call(
        "train", pictures, *base, "-m", "probe", "--epochs", 1, "--out", made, *data, "--fit", "sampling=balanced"
    )
    assert done.exit_code == 0, done.output
    pipeline = petl.read(made)["pipeline"]
    assert (pipeline["window"], pipeline["frame"]) == ([-600, 1500], "middle")
    assert pipeline["mean"] == list(petl.data.statistics(petl.data.dataset(pictures, pipeline), 3).mean)
    assert json.loads(made.with_name("made.history.json").read_text())["settings"]["sampling"] == "balanced"
    flipped = json.loads(call("eval", made, pictures, *base, "--json", "--views", "flip").output)
    assert flipped == json.loads(call("eval", made, pictures, *base, "--json", "--views", 2).output)
    assert flipped["loss"] != json.loads(call("eval", made, pictures, *base, "--json").output)["loss"]
    assert "views='mirror'; expected None or 1" in refused("eval", made, pictures, *base, "--views", "mirror")
    words = ("train", pictures, *base, "-m", "probe", "--out", tmp_path / "x.safetensors", "--fit")
    assert "sampling" in refused(*words, "sampling=even") and "transform" in refused(*words, "transform=flip")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("window=lung", "window=lung"),
        ("window=40,0", "centre and width"),
        ("frame=last", "frame=last"),
        ("tiff=gdal", "tifffile or rasterio"),
        ("statistics=no-such-folder", "no-such-folder"),
        ("crop=1", "crop_pct"),
        ("crop_pct=7", "crop_pct=7"),
        ("crop_pct=wide", "expected a number"),
        ("crop_mode=round", "center or squash or border"),
        ("mean=0.5,0.5", "3 numbers"),
        ("mean=a,b,c", "numbers with commas"),
        ("std=0", "above 0"),
        ("augment=no", "true or false"),
        ("augment.hflop=0", "near names: hflip"),
        ("augment.mean=0", "belongs in the pipeline"),
        ("class_from=leaf", "first or path or last"),
        ("size=3,4,5", "height,width"),
        ("augment", "KEY=VALUE"),
        ("class_map=no-such-file", "no-such-file"),
    ],
)
@pytest.mark.sweep(8)
def test_data_options_that_cannot_be_are_one_line(word: str, said: str, weights: Path, pictures: Path) -> None:
    words = ("--model", f"{NAME}:{weights}", "-m", "probe", "--epochs", 1, "--out", weights.parent / "x.safetensors")
    assert said in refused("train", pictures, *words, "--data", word)
    assert not (weights.parent / "x.safetensors").exists()


def test_eval_and_predict_take_what_is_theirs(delta: Path, weights: Path, pictures: Path) -> None:
    image, base = next(pictures.glob("val/dark/*.png")), ("--model", f":{weights}")
    assert "of training alone" in refused("eval", delta, pictures, *base, "--data", "augment=false")
    assert "class_from" in refused("predict", delta, image, *base, "--data", "class_from=path")
    plain, cut = (
        json.loads(call("predict", delta, image, *base, "--json", *more).output)
        for more in ((), ("--data", "mean=0.1"))
    )
    assert plain != cut


@pytest.mark.deep
def test_a_folder_taken_as_it_is_has_no_validation_split(weights: Path, pictures: Path, tmp_path: Path) -> None:
    """``val`` is a class here."""
    data = tmp_path / "data"
    for name, source in (("cat", "dark"), ("val", "bright")):
        shutil.copytree(pictures / "train" / source, data / name)
    words = ("--model", f"{NAME}:{weights}", "-m", "probe", "--epochs", 1, "--size", 32, "--out", tmp_path / "x")
    assert "--data split=." in refused("train", data, *words)
    done = call("train", data, *words, "--data", "split=.")
    assert done.exit_code == 0, done.output
    assert petl.read(tmp_path / "x")["labels"] == ["cat", "val"]
    assert json.loads((tmp_path / "x.history.json").read_text())["split"]["of"] == 16
    backbone, as_it_is = f"{NAME}:{weights}", ("--size", 32, "--data", "split=.", "--json")
    for words in (("rank", data, "--model", backbone), ("advise", backbone, data)):
        assert "--data split=." in refused(*words) and "val" in call(*words, *as_it_is).stdout, words
    of_delta = (tmp_path / "x", data, "--model", backbone, "--json")
    held, every = (json.loads(call("eval", *of_delta, *more).stdout) for more in ((), ("--split", ".")))
    assert 0 < held["images"] < every["images"] == 16


@pytest.mark.deep
def test_one_of_two_training_splits_can_be_named(weights: Path, pictures: Path, tmp_path: Path) -> None:
    for name in ("Train1", "Train2", "val"):
        shutil.copytree(pictures / "val", tmp_path / "data" / name)
    words = ("--model", f"{NAME}:{weights}", "-m", "probe", "--epochs", 1, "--size", 32, "--out", tmp_path / "x")
    assert "--data split=Train1" in refused("train", tmp_path / "data", *words)
    done = call("train", tmp_path / "data", *words, "--data", "split=Train2")
    assert done.exit_code == 0, done.output


def test_devices_and_pipes_are_no_images(delta: Path, weights: Path, pictures: Path, tmp_path: Path) -> None:
    """They may have no end, or wait for ever."""
    os.mkfifo(tmp_path / "pipe.png")
    base, image = ("--model", f":{weights}"), next(pictures.glob("val/dark/*.png"))
    assert "ordinary file" in refused("predict", delta, "/dev/zero", *base)
    done = call("predict", delta, tmp_path / "pipe.png", image, *base)
    assert done.exit_code == 0
    assert "skipped 1 of 2" in done.stderr
    shutil.copytree(pictures / "val", tmp_path / "data")
    (tmp_path / "pipe.png").rename(tmp_path / "data" / "dark" / "pipe.png")
    shown = call("eval", delta, tmp_path / "data", *base)
    assert shown.exit_code == 0, shown.output
    assert "pipe.png: it is no ordinary file" in shown.stderr


def test_a_broken_link_costs_one_image_and_notes_are_said_once(weights: Path, pictures: Path, tmp_path: Path) -> None:
    """The held-out images are named beside the delta, and all of this folder's links would be among them."""
    shutil.copytree(pictures / "val", tmp_path / "data")
    (tmp_path / "data" / "notes.txt").write_text("not an image")
    for name in ("bright", "dark"):
        for i in range(3):
            (tmp_path / "data" / name / f"gone{i}.png").symlink_to("nowhere.png")
    words = ("--model", f"{NAME}:{weights}", "-m", "probe", "--epochs", 1, "--size", 32, "--out", tmp_path / "x")
    done = call("train", tmp_path / "data", *words)
    assert done.exit_code == 0, done.output
    assert done.stderr.count("notes.txt") + done.stderr.count("1 .txt") == 1
    assert done.stderr.count("No such file") == 6
    assert all(json.loads((tmp_path / "x.history.json").read_text())["split"]["files"].values())
    assert call("eval", tmp_path / "x", tmp_path / "data", "--model", f":{weights}").exit_code == 0


def test_classes_of_one_image_need_validation_images(weights: Path, pictures: Path, tmp_path: Path) -> None:
    for name in ("bright", "dark"):
        (tmp_path / "data" / name).mkdir(parents=True)
        shutil.copy(pictures / "val" / name / "0.png", tmp_path / "data" / name)
    words = ("--model", f"{NAME}:{weights}", "-m", "probe", "--epochs", 1, "--size", 32, "--out", tmp_path / "x")
    assert "--val" in refused("train", tmp_path / "data", *words)
    assert call("train", tmp_path / "data", *words, "--val", pictures / "val").exit_code == 0
