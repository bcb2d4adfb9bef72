"""``petl compare``, on folders of small images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import petl
from petl.cli.compare_command import compared_methods
from tests.support.commands import bright_and_dark, call, refused


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "base.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), path)
    return f"test_vit:{path}"


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "pets"
    bright_and_dark(folder, 12)
    return folder


def test_a_comparison_is_printed_written_and_gone_on_with(model: str, pets: Path, tmp_path: Path) -> None:
    words = [
        "compare",
        model,
        pets,
        "-m",
        "norm",
        "--seconds",
        0,
        "--epochs",
        1,
        "--seeds",
        1,
        "--folder",
        tmp_path / "runs",
    ]
    out = tmp_path / "compare.json"
    done = call(*words, "--out", out)
    assert done.exit_code == 0, done.output
    assert "images that chose nothing" in done.stdout
    kept = json.loads(out.read_text())
    assert kept["kind"] == "comparison"
    assert {row["name"] for row in kept["rows"]} == {"norm x0.33", "norm x1", "norm x3", "probe"}
    assert "exists" in refused(*words, "--out", out)
    again = call(*words, "--json")
    assert json.loads(again.stdout)["best_name"] == kept["best_name"]
    nearer = json.loads(call(*words, "--margin", 0, "--json").stdout)
    best = next(row for row in nearer["rows"] if row["end"] == "winner")
    assert (nearer["margin"], nearer["leader"], best["gap"]) == (0, kept["leader"], 0)
    assert Path(kept["delta"]).exists()
    assert "asked otherwise" in refused(*words, "--seed", 1)


@pytest.mark.deep
def test_jobs_give_the_same(model: str, pets: Path) -> None:
    words = ["compare", model, pets, "-m", "norm+bias", "--seconds", 0, "--epochs", 1, "--seeds", 1, "--json"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one, two = (json.loads(call(*words, "--jobs", jobs).stdout) for jobs in (1, 2))
    torch.set_num_threads(threads)
    assert one["held_out"] == two["held_out"]
    assert [row["accuracy"] for row in one["rows"]] == [row["accuracy"] for row in two["rows"]]


def test_options_go_to_the_methods_that_have_them() -> None:
    net = timm.create_model("test_vit")
    found = compared_methods(["lora", "norm+lora", "bias"], ["rank=4"], net)
    assert found is not None
    assert [[getattr(method, "rank", None) for method in each] for each in found.values()] == [[4], [None, 4], [None]]
    assert compared_methods(None, None, net) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "lorra"], "lorra"), (["-m", "norm", "-m", "norm"], "norm twice"), (["--set", "rank=3"], "needs --method"),
        (["-m", "norm", "--set", "rnk=3"], "rnk"), (["-m", "bn"], "BatchNorm"), (["--images", "0"], "--images"),
        (["--size", "64", "--data", "size=96"], "expected one of them"), (["--seconds", "-1"], "seconds=-1"),
    ],
)  # fmt: skip
@pytest.mark.sweep(4)
def test_what_cannot_be_is_one_line(model: str, pets: Path, words: list[str], said: str) -> None:
    assert said in refused("compare", model, pets, *words)


def test_a_place_that_takes_no_file_is_refused_before_the_work(model: str, pets: Path) -> None:
    Path(pets.parent / "file").touch()
    said = refused("compare", model, pets, "-m", "probe", "--out", pets.parent / "file" / "compare.json")
    assert "is a file, no folder" in said
    if Path("/proc/self").is_dir():  # nobody may write there
        assert "can't write /proc/compare.json" in refused(
            "compare", model, pets, "-m", "probe", "--out", "/proc/compare.json"
        )


def test_few_images_are_refused(model: str, tmp_path: Path) -> None:
    bright_and_dark(tmp_path / "pets", 2)
    assert "4 images of each class" in refused("compare", model, tmp_path / "pets")
    assert petl.record(timm.create_model("test_vit")) is None
