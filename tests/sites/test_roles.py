"""Which modules play which role: what the classes say, blocks in order, heads and stems."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import petl
from tests.support.places import names, playing
from tests.support.zoo import ZOO, images, make


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", ZOO)
def test_roles_are_what_the_classes_say(name: str) -> None:
    modules, head = dict(make(name).named_modules()), playing(name, "head")
    linear = {n for n, m in modules.items() if isinstance(m, (nn.Linear, nn.LSTM)) and n not in head}
    assert playing(name, "linear") == linear
    kinds = (nn.modules.conv._ConvNd, timm.layers.CondConv2d)
    convs = {n: m for n, m in modules.items() if isinstance(m, kinds) and n not in head}
    depthwise = {n for n, m in convs.items() if m.groups == m.in_channels > 1}
    assert playing(name, "depthwise") == depthwise
    assert playing(name, "conv") == {*convs} - depthwise
    norms = {
        n for n, m in modules.items() if isinstance(m, (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm))
    }
    assert norms - head <= playing(name, "norm")
    batchnorms = {n for n, m in modules.items() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert playing(name, "batchnorm") == batchnorms - head


@pytest.mark.sweep(6)
@pytest.mark.parametrize("name", ZOO)
def test_head_is_the_classifier_by_timms_word(name: str) -> None:
    model = make(name)
    asked = model.get_classifier()
    heads = asked if isinstance(asked, (tuple, list, nn.ModuleList)) else [asked]
    inside = {
        id(layer)
        for head in heads
        for layer in head.modules()
        if next(layer.parameters(recurse=False), None) is not None
    }
    modules = dict(model.named_modules())
    assert {
        id(modules[n]) for n in playing(name, "head") if next(modules[n].parameters(recurse=False), None) is not None
    } == inside


BLOCKS = {
    "vit": ["blocks.0", "blocks.1", "blocks.2"],
    "beit": ["blocks.0", "blocks.1"],
    "swinv2": [f"layers.{i}.blocks.{j}" for i in (0, 1) for j in (0, 1)],
    "tnt": ["blocks.0", "blocks.1"],
    "mambaout": None,
    "maxvit": None,
    "coatnet": None,
    "efficientnet": None,
    "densenet": None,
    "coat": None,
    "levit": None,
}


@pytest.mark.sweep(6)
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_found_in_the_order_of_execution(name: str) -> None:
    model, order = make(name), []
    found = names(model, "block")
    assert len(found) >= 2
    assert not any(a != b and b.startswith(f"{a}.") for a in found for b in found), "a block inside a block"
    expected = BLOCKS[name]
    assert expected is None or [b for b in found if "downsample" not in b] == expected
    for block in found:
        model.get_submodule(block).register_forward_pre_hook(lambda *_, block=block: order.append(block))
    model(images(name))
    assert list(dict.fromkeys(order)) == found


@pytest.mark.sweep(12)
@pytest.mark.parametrize("name", ZOO)
def test_stems_are_the_layers_that_see_the_image(name: str) -> None:
    model, batch = make(name), images(name)
    stems, seen = playing(name, "stem"), []
    for n, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_pre_hook(
                lambda m, args, n=n: seen.append(n) if args[0].shape[1] == 3 and args[0].ndim == 4 else None
            )
    model(batch)
    assert stems == {*seen}


@pytest.mark.deep
def test_a_block_with_norm_in_its_name_and_a_scalar_gain_is_no_norm() -> None:
    """dm_nfnet's NormFreeBlock has a gain without dimensions."""
    with torch.device("meta"):
        model = timm.create_model("dm_nfnet_f0", num_classes=4)
    assert any(p.ndim == 0 for p in model.parameters())
    assert petl.find(model, "conv") and petl.find(model, "block")
    assert not petl.find(model, "norm")
