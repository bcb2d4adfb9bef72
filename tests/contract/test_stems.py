"""The input adapter on every kind of stem: the contract for one, two, four and thirteen channels."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import pytest
import torch
from timm.models.byobnet import ByoBlockCfg
from torch import nn

import petl
from petl.graft.kinds import grafts
from tests.support.families import build


class Stem(NamedTuple):
    """timm name, image size, arguments that make it tiny, stems that get the adapter, and whether it folds."""

    architecture: str
    size: int
    arguments: dict[str, Any]
    stems: int = 1
    folds: bool = True
    classes: int | None = 5  # None: an encoder without a classifier


CROSS = {"img_size": 120, "embed_dim": (16, 32), "depth": ((1, 1, 0),), "num_heads": (2, 2)}
TINY = {"embed_dim": 32, "depth": 1, "num_heads": 2}
BRANCHES = {"num_conv_branches": 2}
STEMS = {
    "one convolution": Stem("test_resnet", 64, {}),
    "patches": Stem("test_vit", 64, {"img_size": 64, "depth": 1}),
    "crossvit": Stem("crossvit_tiny_240", 120, CROSS, stems=2),
    "repvgg": Stem("repvgg_a0", 32, {"blocks": (ByoBlockCfg("rep", 1, 16, 2, 0),) * 2, "stem_chs": 8}, stems=2),
    "mobileone": Stem(
        "mobileone_s0",
        32,
        {"blocks": (ByoBlockCfg("one", 1, 16, 2, 0, block_kwargs=BRANCHES),) * 2, "stem_chs": 8},
        stems=2,
    ),
    "fastvit": Stem("fastvit_t8", 64, {"layers": (1,) * 4, "embed_dims": (16, 32, 64, 128)}, stems=2),
    "naflexvit, a linear layer": Stem("naflexvit_base_patch16_parfac_gap", 64, TINY, folds=False),
    "gemma4, a linear layer": Stem("gemma4_vit_167m", 96, TINY, folds=False, classes=None),
    "csatv2, a cosine transform": Stem(
        "csatv2",
        64,
        {"dims": (8, 8, 16, 16), "depths": (1,) * 4, "transformer_depths": (0, 0, 1, 0)},
        folds=False,
    ),
}


@functools.cache
def stem_model(name: str) -> nn.Module:
    stem = STEMS[name]
    return build(stem.architecture, stem.size, **stem.arguments)


@pytest.mark.filterwarnings("ignore:.* was built with blocks=:UserWarning")  # the price of being tiny
@pytest.mark.sweep(1)
@pytest.mark.parametrize("channels", [1, 2, 4, 13])
@pytest.mark.parametrize("name", STEMS)
def test_the_input_adapter_keeps_the_contract(name: str, channels: int) -> None:
    stem = STEMS[name]
    batch = torch.randn(3, channels, stem.size, stem.size)
    model = petl.wrap(
        stem_model(name), "input", in_chans=channels, num_classes=stem.classes, head=stem.classes is not None
    )
    try:
        adapted = [module for module in model.modules() if grafts(module)]
        assert len(adapted) == stem.stems
        weights = [module.weight for module in adapted if stem.folds]
        # oneDNN's kernels for channels-last write past their memory on strides that are odd along axes of one
        assert all(weight.stride() == torch.empty(weight.shape).stride() for weight in weights)
        report = petl.check(model, batch)
    finally:
        petl.unwrap(model)
    assert report.ok, f"\n{report!r}"
    found = {finding.point: finding.status for finding in report}
    assert found["merge"] == ("pass" if stem.folds else "n/a")


@pytest.mark.parametrize("place", ["cpu", "meta"])
def test_a_door_without_parameters_gets_its_layer_where_the_model_is(place: str) -> None:
    """As TResNet's space-to-depth."""
    net = nn.Sequential(
        nn.PixelUnshuffle(4), nn.Conv2d(48, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)
    )
    net = net.to(place, torch.float64)
    model = petl.wrap(net, "input", in_chans=2, head="4")
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {(place, torch.float64)}
    assert model(torch.zeros(1, 2, 16, 16, device=place, dtype=torch.float64)).shape == (1, 2)
    petl.unwrap(model)
