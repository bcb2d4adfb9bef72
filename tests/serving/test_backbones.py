"""Which backbone a folder is served on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import petl
from petl.serving.backbones import _built, folder_of_deltas, serving_backbone
from tests.support import served
from tests.support.zoo import make


def test_the_headers_say_the_backbone_or_the_user_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    monkeypatch.setattr("petl.serving.backbones.build_backbone", lambda described, **_: built.append(described))
    petl.save(petl.wrap(make("vit"), "probe", num_classes=3), tmp_path / "pets.safetensors")
    petl.save(petl.wrap(make("vit"), "norm", num_classes=5), tmp_path / "birds.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no delta")
    serving_backbone(tmp_path, None)
    assert built[0]["name"].startswith("test_vit")
    assert built[0]["args"]["img_size"] == [64, 64]
    assert "num_classes" not in built[0]
    base = make("vit")
    assert serving_backbone(tmp_path, base) is base
    (tmp_path / "elsewhere").mkdir()
    weights = tmp_path / "elsewhere" / "weights.safetensors"
    kept = {key: value for key, value in base.state_dict().items() if not key.startswith("head.")}
    save_file({key: value.contiguous() for key, value in kept.items()}, weights)
    for text in (f"test_vit:{weights}", f":{weights}"):
        found = serving_backbone(tmp_path, text)
        assert all(torch.equal(value, found.state_dict()[key]) for key, value in kept.items())
    with pytest.raises(petl.StateError, match="near names: test_vit"):
        serving_backbone(tmp_path, "test_vid")
    with pytest.raises(petl.StateError, match="expected a module"):
        serving_backbone(tmp_path, 3)  # type: ignore[arg-type]  # what is refused


def test_backbones_outside_timm_need_leave() -> None:
    described = {"name": "local-dir:/nowhere", "args": {}}
    with pytest.raises(
        petl.DeltaError, match=r"--trust-remote.*petl.serve\(folder, model\); or name it.*--model NAME:FILE"
    ):
        _built(described, False)
    with pytest.raises(petl.DeltaError, match="can't build the backbone local-dir:/nowhere"):
        _built(described, True)


def test_several_backbones_and_none_are_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(petl.StateError, match="no delta that can be read.*--model NAME"):
        serving_backbone(tmp_path, None)
    served.write(tmp_path, "pets")
    petl.save(petl.wrap(make("vit"), "probe", num_classes=3), tmp_path / "birds.safetensors")
    with pytest.raises(petl.StateError, match=r"2 backbones: test_vit.* \(birds.safetensors\); test_resnet.*pets"):
        serving_backbone(tmp_path, None)
    for wrong in (tmp_path / "none", tmp_path / "pets.safetensors", None, "\0"):
        with pytest.raises(petl.StateError, match="is no folder"):
            folder_of_deltas(wrong)
