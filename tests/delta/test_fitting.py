"""A delta goes onto its own base only."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import petl
from tests.support.compare import portrait
from tests.support.delta_files import header_of
from tests.support.lively import calibrate
from tests.support.trained import trained
from tests.support.zoo import disturb, images, make


def test_another_base_is_refused_by_both_digests(saved: Path) -> None:
    other = make("beit")
    with torch.no_grad():
        other.blocks[0].attn.qkv.weight[0, 0] += 1e-3
    before, digest = portrait(other), header_of(saved)["digest"]
    with pytest.raises(petl.DeltaError, match=digest[:8]) as caught:
        petl.load(saved, other)
    assert portrait(other) == before
    mine = petl.record(petl.wrap(copy.deepcopy(other), ["bias", petl.LoRA(rank=2)])).digest
    assert mine[:8] in str(caught.value) and mine != digest and "beit_base_patch16_224" in str(caught.value)
    assert petl.record(petl.load(saved, other, check_base=False))


def test_a_moved_statistic_makes_another_base(tmp_path: Path) -> None:
    path = petl.save(trained("resnet", "lora"), tmp_path / "d.safetensors")
    other = make("resnet")
    calibrate(other.train(), images("resnet", batch=8))
    with pytest.raises(petl.DeltaError, match="digest"):
        petl.load(path, other)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", ["eva", "vit", "resnet"])
def test_another_architecture_is_refused(name: str, saved: Path) -> None:
    model = make(name)
    before = portrait(model)
    for check_base in (True, False):
        with pytest.raises(petl.DeltaError):
            petl.load(saved, model, check_base=check_base)
        assert portrait(model) == before


def test_loading_onto_a_wrapped_model(saved: Path) -> None:
    model = disturb(petl.wrap(make("beit"), "lora"))
    before = portrait(model)
    with pytest.raises(petl.PetlError, match="wrapped already"):
        petl.load(saved, model)
    assert portrait(model) == before
