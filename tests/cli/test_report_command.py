"""``petl report``: the page of a delta."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

import petl
from tests.support.commands import bright_and_dark, call, refused


@pytest.fixture
def delta(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    base = timm.create_model("test_resnet")
    torch.save(base.state_dict(), tmp_path / "base.pth")
    model = petl.wrap(base, "norm", num_classes=2)
    petl.record(model).pipeline = petl.data.pipeline(model, size=32)  # type: ignore[union-attr]  # just wrapped
    return petl.save(model, tmp_path / "pets.safetensors", labels=["bright", "dark"])


def test_the_page_of_a_delta(delta: Path, tmp_path: Path) -> None:
    pets, page = tmp_path / "pets", tmp_path / "out" / "page.html"
    bright_and_dark(pets, 6)
    (tmp_path / "rank.json").write_text(json.dumps({"kind": "ranking", "sentences": ["resnet is best"]}))
    words = ["report", delta, pets, "--model", f"test_resnet:{tmp_path / 'base.pth'}", "--out", page, "--images", 8]
    result = call(*words, "--findings", tmp_path / "rank.json", "--no-base")
    assert result.exit_code == 0, result.output
    content = json.loads(page.with_suffix(".json").read_text())
    assert content["data"]["images"] == 8 and content["findings"][0]["sentences"] == ["resnet is best"]
    assert content["reproduce"]["command"] == "petl report pets.safetensors DATA --out report.html"
    assert content["classes"] == ["bright", "dark"] and content["cost"]["delta_bytes"] == delta.stat().st_size
    assert "exists" in refused(*words)
    assert ".html" in refused(*words[:6], tmp_path / "page")
    flat = sorted((pets / "bright").iterdir())[0].parent
    alone = call("report", delta, flat, *words[3:5], "--out", tmp_path / "flat.html", "--json")
    assert alone.exit_code == 0 and json.loads(alone.stdout)["data"]["targets"] == "", alone.output
