"""petl predict with folders, patterns and tables, and the files that it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import petl
from tests.cli.test_outputs import contents
from tests.pipelines.test_pipelines import free_port
from tests.prediction.test_writers import rows_of
from tests.support.commands import call, refused

NAME = "test_resnet"
MODEL = ("--model", f"{NAME}:base.safetensors")
IMAGES = [f"{name}/{number}.png" for name in ("bright", "dark") for number in range(5)]


@pytest.fixture
def here(here: Path) -> Path:
    """The working folder with a delta whose answers differ from image to image, and a file that is cut off."""
    model = petl.wrap(timm.create_model(NAME, checkpoint_path="base.safetensors"), "probe", num_classes=2)
    torch.nn.init.normal_(model.fc.weight)
    petl.record(model).pipeline = petl.data.pipeline(model, size=32)
    petl.save(model, "d.safetensors", labels=["bright", "dark"])
    Path("pets/dark/2.5.png").write_bytes(Path("pets/dark/2.png").read_bytes()[:70])
    Path("pets/list.txt").write_text("no image")
    return here


def predict(*words: Any, source: str = "pets") -> Any:
    done = call("predict", "d.safetensors", source, *MODEL, *words)
    assert done.exit_code == 0, done.output
    return done


def test_a_folder_becomes_a_table_in_file_order(here: Path) -> None:
    done = predict("--out", "x.csv", "--batch-size", 3)
    assert done.stdout == "wrote x.csv: 10 images\n"
    assert "skipped dark/2.5.png: it can't be read" in done.stderr and "skipped 1 of 11 images" in done.stderr
    head, *rows = rows_of(Path("x.csv"))
    assert head == ["image", "label", "confidence", "bright", "dark"] and [row[0] for row in rows] == IMAGES
    model = petl.load("d.safetensors", timm.create_model(NAME, checkpoint_path="base.safetensors"))
    found = petl.predict(model, "pets", batch_size=3)
    assert np.array_equal(np.array([row[3:] for row in rows], dtype=np.float32), found.probabilities)
    plain = [{"image": row["image"], "predictions": row["predictions"]} for row in json.loads(predict("--json").stdout)]
    assert [one["image"] for one in plain] == IMAGES and all(len(one["predictions"]) == 1 for one in plain)
    every = json.loads(predict("--json", "--all").stdout)
    assert all(sum(p["confidence"] for p in one["predictions"]) == pytest.approx(1) for one in every)


def test_json_lines_and_parquet(here: Path) -> None:
    said = json.loads(predict("--out", "x.jsonl", "--json").stdout)
    assert said["file"] == "x.jsonl" and said["images"] == 10 and said["skipped"][0]["image"] == "dark/2.5.png"
    rows = [json.loads(line) for line in Path("x.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows] == IMAGES and [*rows[0]["probabilities"]] == ["bright", "dark"]
    predict("--out", "y.jsonl", "--no-all", "--top", 2)
    rows = [json.loads(line) for line in Path("y.jsonl").read_text().splitlines()]
    assert [*rows[0]] == ["image", "label", "confidence", "predictions"] and len(rows[0]["predictions"]) == 2
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    predict("--out", "new/x.parquet")
    assert pandas.read_parquet("new/x.parquet")["image"].tolist() == IMAGES


def test_the_output_may_lie_in_the_folder_and_is_replaced_only_if_asked(here: Path) -> None:
    predict("--out", "pets/x.csv")
    first = Path("pets/x.csv").read_bytes()
    assert "--overwrite" in refused("predict", "d.safetensors", "pets", *MODEL, "--out", "pets/x.csv")
    predict("--out", "pets/x.csv", "--overwrite")
    assert Path("pets/x.csv").read_bytes() == first
    assert not [name for name in os.listdir("pets") if name.startswith(".petl")]


def test_patterns_tables_and_several_sources(here: Path) -> None:
    images = [one["image"] for one in json.loads(predict("--json", source="pets/*/*.png").stdout)]
    assert images == [f"pets/{name}" for name in IMAGES]
    Path("pets/these.csv").write_text("path,label\ndark/3.png,dark\ngone.png,dark\nbright/0.png,bright\n")
    done = predict("--json", source="pets/these.csv")
    assert [one["image"] for one in json.loads(done.stdout)] == ["dark/3.png", "bright/0.png"]
    assert "skipped gone.png: No such file or directory" in done.stderr
    both = json.loads(predict("pets/dark", "--json", source="pets/bright/4.png").stdout)
    assert [one["image"] for one in both] == ["pets/bright/4.png", *(f"pets/{name}" for name in IMAGES[5:])]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("empty",), "no images"),
        (("pets/*.jpg",), "no file matches"),
        (("pets", "--out", "x.txt"), ".csv, *.jsonl, *.parquet"),
        (("pets", "--out", "pets"), "folder"),
        (("pets", "--out", "d.safetensors/x.csv"), "is a file"),
        (("pets/these.csv", "--out", "pets/these.csv", "--overwrite"), "are one file"),
        (("pets", "--strict", "--out", "x.csv"), "dark/2.5.png"),
        (("pets/dark/2.5.png", "--out", "x.csv"), "2.5.png"),
        (("pets", "--batch-size", 0), "batch-size"),
        (("pets", "--data", "split=train"), "split"),
    ],
)
@pytest.mark.sweep(5)
def test_what_cant_be_done_is_said_before_the_model_is_built(
    words: tuple[Any, ...], said: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("empty").mkdir()
    Path("pets/these.csv").write_text("path\ndark/3.png\n")
    before = contents(here)
    if words[0] != "pets/dark/2.5.png":  # alone, it is found when it is read
        monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: 1 / 0)
    assert said in refused("predict", "d.safetensors", *words, *MODEL)
    assert contents(here) == before


def test_an_interrupt_leaves_no_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Any, block: Any) -> None:
        raise KeyboardInterrupt

    before = contents(here)
    monkeypatch.setattr("petl.prediction.writers.CsvWriter.add", interrupted)
    assert call("predict", "d.safetensors", "pets", *MODEL, "--out", "x.csv").exit_code == 130
    assert contents(here) == before


@pytest.mark.deep
def test_two_processes_write_one_file_in_order(here: Path) -> None:
    """accelerate launch with two ranks on the CPU; see `tests/pipelines/test_pipelines.py` for why it is asked for GPUs."""
    predict("--out", "one.csv", "--batch-size", 3)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    options = [
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        str(free_port()),
        "-m",
        "petl",
    ]
    root = str(Path(petl.__file__).parent.parent)
    env = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = ["predict", "d.safetensors", "pets", *MODEL, "--out", "two.csv", "--batch-size", "3"]
    done = subprocess.run([*launch, *options, *words], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "wrote two.csv: 10 images\n" and done.stderr.count("skipped 1 of 11 images") == 1
    one, two = rows_of(Path("one.csv")), rows_of(Path("two.csv"))
    assert [row[0] for row in two] == [row[0] for row in one] and two[0] == one[0]
    numbers = [np.array([row[2:] for row in rows[1:]], dtype=float) for rows in (one, two)]
    assert np.allclose(*numbers, atol=1e-5, rtol=0)
