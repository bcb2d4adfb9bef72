"""Blocks, and adapters on them, in families that are unlike others: no groups of timm's, lists of tensors, no blocks at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import petl
from tests.support.families import FAMILIES, build


def _vgg(norm: type[nn.Module] | None = None, **options: Any) -> nn.Module:
    from timm.models.vgg import VGG

    return VGG([8, "M", 16, "M", 16, 8, "M"], mlp_ratio=1 / 64, norm_layer=norm, **options)


def _vgg_bn(**options: Any) -> nn.Module:
    return _vgg(nn.BatchNorm2d, **options)


# name -> (timm name or builder, image size, further arguments, some of its blocks)
UNLIKE: dict[str, tuple[str | Callable[..., nn.Module], int, dict[str, Any], list[str]]] = {
    "pit": ("pit_ti_224", 224, {"depth": (1, 1, 1)}, [f"transformers.{i}.blocks.0" for i in range(3)]),
    "csatv2": ("csatv2", 64, {}, ["stages.0.0", "stages.2.8"]),
    "caformer": (FAMILIES["caformer"][0], 64, {}, [f"stages.{i}.blocks.0" for i in range(4)]),
    "mvitv2": (FAMILIES["mvitv2"][0], 64, {}, ["stages.0", "stages.1"]),
    "hrnet": ("hrnet_w18_small", 64, {}, ["stage2", "stage3", "stage4"]),
    "selecsls": ("selecsls42", 64, {}, ["features.0", "features.5"]),
    "efficientvim": ("efficientvim_m1", 64, {}, ["stages.0.blocks.0", "stages.2.blocks.1"]),
    "vgg": (_vgg, 32, {}, ["features.3", "features.6", "features.8"]),
    "vgg with norms": (_vgg_bn, 32, {}, ["features.4", "features.8", "features.11"]),
}


def family_model(family: str) -> nn.Module:
    name, size, options, _ = UNLIKE[family]
    return build(name, size, num_classes=3, **options)


@pytest.mark.deep
@pytest.mark.parametrize("family", UNLIKE)
def test_adapters_keep_the_contract(family: str) -> None:
    model, size = family_model(family), UNLIKE[family][1]
    blocks = [site.name for site in petl.find(model, "block")]
    assert {*UNLIKE[family][3]} <= {*blocks}
    report = petl.check(model, torch.randn(3, 3, size, size), "adapter", bottleneck=4, num_classes=5)
    assert report.ok, f"\n{report!r}"
    adapted = petl.wrap(model, "adapter", bottleneck=4, head=False)
    assert all(m.adapter.parts for m in adapted.modules() if hasattr(m, "adapter"))


def test_a_stack_of_layers_has_its_layers_as_blocks() -> None:
    """The stem and the classifier are none; `partial` counts them."""
    model = family_model("vgg")
    assert [site.name for site in petl.find(model, "block")] == ["features.3", "features.6", "features.8"]
    trains = petl.trainable(petl.wrap(model, "partial", last=1, num_classes=5))
    assert {key.rpartition(".")[0] for key in trains} == {"features.8", "pre_logits.fc1", "pre_logits.fc2", "head.fc"}
