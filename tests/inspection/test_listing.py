"""`petl.ls` and `petl ls`: what headers say, in order, and reasons for what can't be read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import petl
from tests.support.commands import call, refused
from tests.support.small_delta import small


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("deltas")
    (place / "more").mkdir()
    results = {"epoch": 3, "accuracy": 0.912, "accuracy_standard_error": 0.0115, "images": 600, "loss": 0.3}
    petl.save(small(), place / "b.safetensors", results=results)
    petl.save(small(4, petl.LoRA(rank=2)), place / "more" / "c.safetensors", results={"accuracy": 0.95})
    petl.save(small(), place / "a.safetensors")
    (place / "cut.safetensors").write_bytes((place / "a.safetensors").read_bytes()[:500])
    (place / "gone.safetensors").symlink_to("nowhere")
    (place / "notes.txt").write_text("no delta")
    os.utime(place / "a.safetensors", (10**9, 10**9))
    return place


def test_rows(folder: Path) -> None:
    found = petl.ls(folder)
    assert [row.file for row in found] == ["a.safetensors", "b.safetensors", "cut.safetensors", "gone.safetensors"]
    row = found[1]
    assert (row.base, row.methods, row.classes, row.images) == ("test_resnet.r160_in1k", "bias", 3, 600)
    assert (row.metric, row.value, row.error, row.why) == ("accuracy", 0.912, 0.0115, "")
    assert row.bytes == (folder / row.file).stat().st_size
    assert "no whole safetensors file" in found[2].why and "No such file" in found[3].why
    assert "accuracy 0.912 +- 0.011" in repr(found) and "not read: cut.safetensors: is no whole" in repr(found)
    assert petl.ls(folder / "more" / "c.safetensors")[0].methods == "lora(rank=2)"


@pytest.mark.parametrize(
    "order, first",
    [("result", "more/c"), ("date", "more/c"), ("classes", "more/c"), ("bytes", "more/c"), ("methods", "a")],
)
def test_orders(folder: Path, order: str, first: str) -> None:
    os.utime(folder / "more" / "c.safetensors")
    os.utime(folder / "b.safetensors", (10**9 + 100, 10**9 + 100))
    found = petl.ls(folder, recursive=True, sort=order)
    assert found[0].file == f"{first}.safetensors" and all(row.why for row in found[3:]) and len(found) == 5


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(petl.StateError, match="is no folder"):
        petl.ls(folder / "none")
    with pytest.raises(petl.MethodError, match="near names: bytes"):
        petl.ls(folder, sort="byte")
    assert petl.ls(tmp_path) == () and repr(petl.ls(tmp_path)) == "no .safetensors file"


def test_the_command(folder: Path) -> None:
    done = call("ls", folder, "--recursive", "--sort", "result", "--json")
    rows = json.loads(done.stdout)
    assert [row["value"] for row in rows] == [0.95, 0.912, None, None, None] and rows[3]["why"]
    done = call("ls", folder)
    assert done.exit_code == 0 and "b.safetensors" in done.stdout and "petl: not read: cut.safetensors" in done.stderr
    assert "is no folder" in refused("ls", folder / "none")


def test_a_name_that_would_steer_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "\x1b[2J.safetensors").write_bytes(b"")
    assert "\x1b" not in repr(petl.ls(tmp_path)) and "\x1b" not in call("ls", tmp_path).output
