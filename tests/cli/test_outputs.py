"""What commands write: nothing is replaced unasked, and what can't be written is known before the work."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import timm

import petl
from tests.support.commands import call, refused
from tests.support.disk import small_files

NAME = "test_resnet"


def contents(folder: Path) -> dict[str, Any]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture
def here(here: Path) -> Path:
    """The working folder with a delta in d.safetensors, too."""
    base = timm.create_model(NAME, checkpoint_path="base.safetensors")
    petl.save(petl.wrap(base, "bn", num_classes=2), "d.safetensors", labels=["bright", "dark"])
    return here


def training(*words: Any, out: str = "new.safetensors") -> tuple[Any, ...]:
    common = ("--model", f"{NAME}:base.safetensors", "-m", "probe", "--size", 32, "--epochs", 2, "--batch-size", 4)
    return ("train", "pets", *common, "--out", out, *words)


MERGE = ("--model", f"{NAME}:base.safetensors")


@pytest.mark.parametrize(
    "name", ["d.safetensors", "./d.safetensors", "sub/../d.safetensors", "soft", "hard", "base.safetensors"]
)
def test_merge_never_writes_onto_what_it_reads(name: str, here: Path) -> None:
    (here / "sub").mkdir()
    os.symlink("d.safetensors", "soft")
    os.link("d.safetensors", "hard")
    before = contents(here)
    assert "are one file" in refused("merge", "d.safetensors", name, *MERGE, "--overwrite")
    assert contents(here) == before


def test_merge_replaces_only_what_it_is_asked_to(here: Path) -> None:
    (here / "out.pth").write_text("precious")
    assert "--overwrite" in refused("merge", "d.safetensors", "out.pth", *MERGE)
    assert (here / "out.pth").read_text() == "precious"
    done = call("merge", "d.safetensors", "out.pth", *MERGE, "--overwrite")
    assert done.exit_code == 0, done.output
    timm.create_model(NAME, checkpoint_path="out.pth", num_classes=2)


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("pets", "folder"),
        ("new/", "folder"),
        ("", "folder"),
        ("base.safetensors", "are one file"),
        ("d.safetensors", "--overwrite"),
        ("dangling", "--overwrite"),
        ("pipe", "no ordinary file"),
        ("base.safetensors/x", "is a file"),
        ("/proc/none/x.safetensors", "can't write"),
        ("x" * 300, "name"),
        ("other.safetensors", "other.history.json exists"),
    ],
)
@pytest.mark.sweep(6)
def test_an_out_that_cannot_be_is_refused_before_anything_is_read(out: str, said: str, here: Path) -> None:
    os.symlink("nowhere", "dangling")
    os.mkfifo("pipe")
    (here / "other.history.json").write_text("{}")
    before = {name: value for name, value in contents(here).items() if name != "pipe"}
    assert said in refused(*training(out=out))
    after = {name: value for name, value in contents(here).items() if name != "pipe"}
    assert after == before


@pytest.mark.parametrize("command", ["train", "merge"])
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
@pytest.mark.sweep(2)
def test_a_full_disk_is_one_line_before_the_work(
    command: str, ending: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(petl, "fit", lambda *given, **more: pytest.fail("it has begun"), raising=True)
    before = contents(here)
    with small_files(1000):
        words = ("merge", "d.safetensors", f"x.{ending}", *MERGE)
        said = refused(*(words if command == "merge" else training(out=f"x.{ending}")))
    assert f"x.{ending}" in said and "too large" in said and ".petl-" not in said
    assert contents(here) == before


def test_train_replaces_no_other_run(here: Path) -> None:
    """Again without resume, with another seed, into the same checkpoints: nothing of the first run is touched."""
    assert call(*training("--fit", "checkpoint=run")).exit_code == 0
    before = contents(here)
    assert "new.safetensors exists" in refused(*training("--seed", 1))
    assert "epoch-0002" in refused(*training("--fit", "checkpoint=run", out="b.safetensors"))
    assert "exists" in refused(*training("--fit", "checkpoint=run", "--fit", "resume=true", out="d.safetensors"))
    assert contents(here) == before


def test_the_same_run_goes_on_and_another_one_when_asked(here: Path) -> None:
    assert call(*training("--fit", "checkpoint=run")).exit_code == 0
    done = call(*training("--fit", "checkpoint=run", "--fit", "resume=true", "--epochs", 3))
    assert done.exit_code == 0, done.output
    assert [path.name for path in (here / "run").iterdir()] == ["epoch-0003"]
    done = call(*training("--fit", "checkpoint=run", "--epochs", 1, "--overwrite"))
    assert done.exit_code == 0, done.output
    assert [path.name for path in (here / "run").iterdir()] == ["epoch-0001"]
    assert petl.read("new.safetensors")["results"]["epoch"] == 1


def test_train_makes_the_folder_of_its_delta_and_leaves_nothing_else(here: Path) -> None:
    assert call(*training("--epochs", 1, out="a/b/x.safetensors")).exit_code == 0
    assert sorted(path.name for path in (here / "a/b").iterdir()) == ["x.history.json", "x.safetensors"]


def test_the_demo_replaces_no_delta(here: Path) -> None:
    (here / "petl-demo").mkdir()
    (here / "petl-demo" / "lora.safetensors").write_text("mine")
    assert "lora.safetensors exists" in refused("demo", "--quick")
    (here / "file").write_text("")
    assert "is a file" in refused("demo", "--quick", "--out", "file")
