"""The classifier that wrap replaces, trains, freezes or finds by name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import petl
from tests.support.compare import portrait
from tests.support.steps import trained_by_hand
from tests.support.zoo import CLASSES, ZOO, images, make, output


@pytest.mark.sweep(5)
@pytest.mark.parametrize("name", sorted(ZOO))
def test_num_classes_gives_every_architecture_a_new_classifier(name: str) -> None:
    model = petl.wrap(make(name), "probe", num_classes=7)
    out = model.train()(images(name))
    assert all(o.shape == (3, 7) for o in (out if isinstance(out, tuple) else [out]))
    assert model.num_classes == 7
    assert {n.split(".")[0] for n in petl.trainable(model)} <= {h.split(".")[0] for h in petl.record(model).head}
    asked = model.get_classifier()
    layers = asked if isinstance(asked, (tuple, list)) else [asked]
    assert all(p.requires_grad for layer in layers for p in layer.parameters())


def test_the_same_number_of_classes_keeps_the_classifier() -> None:
    model, head = make("vit"), make("vit").head.weight
    for num_classes in (None, CLASSES):
        wrapped = petl.wrap(copy.deepcopy(model), "lora", num_classes=num_classes)
        assert torch.equal(wrapped.head.weight, head) and wrapped.head.weight.requires_grad


def test_head_false_freezes_the_classifier() -> None:
    model = petl.wrap(make("deit_distilled"), "lora", head=False)
    assert not any(n.startswith("head") for n in petl.trainable(model))
    assert petl.record(model).head == ()
    with pytest.raises(petl.MethodError, match="head=False"):
        petl.wrap(make("vit"), "lora", head=False, num_classes=5)
    with pytest.raises(petl.SiteError, match="nothing to train"):
        petl.wrap(make("vit"), "probe", head=False)


@pytest.mark.parametrize(("name", "heads"), [("deit_distilled", 2), ("levit", 2), ("crossvit", 2), ("tnt", 1)])
def test_all_classifiers_train(name: str, heads: int) -> None:
    model = petl.wrap(make(name), "probe", num_classes=5)
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 5]
    assert len(linear) == heads and all(m.weight.requires_grad for m in linear)


def test_a_base_without_classes() -> None:
    model = petl.wrap(timm.create_model("test_vit", num_classes=0), "lora", num_classes=5)
    assert output(model, torch.randn(2, 3, 160, 160)).shape == (2, 5)
    assert {"head.weight", "head.bias"} <= {*petl.trainable(model)}
    assert petl.unwrap(model).num_classes == 0 and isinstance(model.head, nn.Identity)
    featureless = petl.wrap(timm.create_model("test_vit", num_classes=0), "lora")
    assert output(featureless, torch.randn(2, 3, 160, 160)).shape == (2, 64)
    with pytest.raises(petl.SiteError, match="num_classes"):
        petl.wrap(timm.create_model("test_vit", num_classes=0), "probe")


class Encoder(nn.Module):
    """A plain module, no timm contract; classifies by ``fc``."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2)
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU())
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.norm(self.stem(x))).mean((2, 3)))


def test_models_without_a_classifier_to_ask_for() -> None:
    before = portrait(model := Encoder())
    for options in ({}, {"num_classes": 5}):
        with pytest.raises(petl.SiteError, match=r"no classifier.*head=False"):
            petl.wrap(model, "lora", **options)
        assert portrait(model) == before
    petl.wrap(model, "lora", head=False)
    assert not model.fc._parameters["weight"].requires_grad


def test_the_classifier_by_name() -> None:
    model = petl.wrap(Encoder(), "lora", head="fc", num_classes=4)
    assert output(model, torch.randn(3, 3, 32, 32)).shape == (3, 4)
    assert not hasattr(model.fc, "lora") and model.fc.weight.requires_grad
    kept = petl.wrap(Encoder(), "lora", head="fc")
    assert kept.fc.out_features == 10 and kept.fc.weight.requires_grad
    assert output(petl.unwrap(model), torch.randn(3, 3, 32, 32)).shape == (3, 10)
    with pytest.raises(petl.SiteError, match="near names: fc"):
        petl.wrap(Encoder(), "lora", head="fcc")


@pytest.mark.deep
def test_torchvision_with_its_classifier_by_name() -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    base, x = resnet18(num_classes=10).eval(), torch.randn(3, 3, 64, 64)
    before = portrait(base)
    plain = output(base, x)
    model = petl.wrap(base, ["bn", petl.LoRA(rank=2)], head="fc", num_classes=4)
    assert model.fc.out_features == 4
    trained_by_hand(model, x)
    out = output(model, x)
    merged = petl.merge(copy.deepcopy(model))
    assert torch.equal(output(merged, x), out) and {*merged.state_dict()} == {*before["bits"]}
    petl.unwrap(model)
    assert portrait(model) == before and torch.equal(output(model, x), plain)


@pytest.mark.deep
def test_a_real_headless_encoder_of_timm() -> None:
    with torch.device("meta"):
        model = timm.create_model("mobilenetv5_300m_enc")
    assert not hasattr(model, "reset_classifier")
    before = {n: type(m) for n, m in model.named_modules()}
    with pytest.raises(petl.SiteError, match="head=False"):
        petl.wrap(model, "lora", num_classes=5)
    assert {n: type(m) for n, m in model.named_modules()} == before
    assert petl.trainable(petl.wrap(model, "lora", head=False))


@pytest.mark.parametrize("five", [np.int64(5), torch.tensor(4) + 1], ids=["numpy", "torch"])
def test_classes_counted_by_numpy_or_torch_are_saved(five: Any, tmp_path: Path) -> None:
    """As ``labels.max() + 1`` gives them; a header holds Python's own numbers."""
    built = timm.create_model("test_resnet", num_classes=np.int64(5))
    for model in (petl.wrap(make("resnet"), "probe", num_classes=five), petl.wrap(built, "probe")):
        petl.save(model, tmp_path / "delta.safetensors")
        assert petl.read(tmp_path / "delta.safetensors")["backbone"]["num_classes"] == 5
