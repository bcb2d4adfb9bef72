"""``petl rank``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.backbones import weights_file
from tests.support.commands import bright_and_dark, call, refused
from tests.support.feature_data import small


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    bright_and_dark(tmp_path / "pets", 10)
    return tmp_path / "pets"


def test_it_prints_a_table_or_json_and_keeps_the_json(pets: Path, tmp_path: Path) -> None:
    files = [f"{name}:{weights_file(tmp_path, name)}" for name in ("test_resnet", "test_vit")]
    words = ["rank", pets, "--model", files[0], "--model", files[1], "--max-params", "30M", "--licence", "open"]
    words += ["--images", 1000, "--size", 64, "--data", "crop_pct=1", "--out", tmp_path / "rank.json"]
    done = call(*words)
    assert done.exit_code == 0, done.output
    assert "test_resnet" in done.stdout and "Best (*)" in done.stdout
    kept = json.loads((tmp_path / "rank.json").read_text())
    assert kept["kind"] == "ranking" and len(kept["rows"]) == 2 and kept["best"] in files
    assert "exists" in refused(*words)
    again = call(*words, "--overwrite", "--json")
    printed = json.loads(again.stdout)
    assert printed["best"] == kept["best"] and printed["rows"][0]["side"] == 64


def test_it_refuses_before_the_work(pets: Path, tmp_path: Path) -> None:
    assert "near names: resnet50" in refused("rank", pets, "--model", "resnet5O")
    assert "max_params='lots'" in refused("rank", pets, "--model", "resnet50", "--max-params", "lots")
    assert "expected one of them" in refused("rank", pets, "--size", 64, "--data", "size=32")
    assert "one file" in refused(
        "rank", pets, "--model", f"test_vit:{weights_file(tmp_path)}", "--out", tmp_path / "test_resnet.safetensors"
    )
    assert "no such" in refused("rank", tmp_path / "nowhere", "--model", "resnet50").lower()


def test_the_demos_backbone_is_named_as_elsewhere(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petl.demo.lite0", lambda: small("test_resnet"))
    done = call("rank", pets, "--model", "demo", "--size", 32)
    assert done.exit_code == 0 and "* demo " in done.stdout, done.output
