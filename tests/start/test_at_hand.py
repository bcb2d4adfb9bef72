"""Which weights are at hand: those in the caches of the hub and of torch, else the demo's."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants

from petl.start import at_hand
from petl.start.at_hand import backbones_at_hand


def cached(cache: Path, repository: str, file: str, size: int) -> None:
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / file).write_bytes(bytes(size))


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    (tmp_path / "torch" / "checkpoints").mkdir(parents=True)
    return tmp_path


def test_what_caches_hold(caches: Path) -> None:
    cached(caches / "hub", "timm/resnet18.a1_in1k", "model.safetensors", 30)
    cached(caches / "hub", "timm/resnet50.a1_in1k", "config.json", 10)  # its weights aren't there
    url = timm.get_pretrained_cfg("resnet34.a1_in1k").url
    (caches / "torch" / "checkpoints" / Path(url).name).write_bytes(bytes(20))
    assert backbones_at_hand() == ["resnet34.a1_in1k", "resnet18.a1_in1k"]


def test_the_demos_where_there_is_nothing(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_hand, "_has_demo", lambda: True)
    assert backbones_at_hand() == ["demo"]
    monkeypatch.setattr(at_hand, "_has_demo", lambda: False)
    assert backbones_at_hand() == []


def test_many_are_spread_over_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"m{number}" for number in range(30)]
    assert at_hand._spread(names, 4) == ["m0", "m10", "m19", "m29"] and at_hand._spread(names[:3], 4) == names[:3]
