"""`petl.unwrap` gives the model back, bit for bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch

import petl
from tests.support.compare import differing, portrait, state
from tests.support.steps import trained_by_hand
from tests.support.zoo import images, make, output


@pytest.mark.sweep(5)
@pytest.mark.parametrize("name", ["vit", "resnet", "beit", "deit_distilled", "levit", "swinv2", "nfnet", "crossvit"])
def test_unwrap_gives_everything_back(name: str) -> None:
    model, batch = make(name), images(name)
    mixed = [n for i, (n, _) in enumerate(model.named_parameters()) if i % 3 == 0]
    for n, p in model.named_parameters():
        p.requires_grad_(n in mixed)
    model.train()
    next(model.children()).eval()
    expected, before = output(copy.deepcopy(model), batch), portrait(model)
    petl.wrap(model, ["bias", petl.LoRA(rank=2), petl.Adapter(bottleneck=2)], num_classes=5)
    trained_by_hand(model, batch)
    assert petl.unwrap(model) is model
    assert portrait(model) == before
    assert torch.equal(output(model, batch), expected)
    assert petl.record(model) is None
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    "methods", ["full", "bn", ["norm", "bias"], "partial", [petl.Input(in_chans=4), petl.Full(stats="adapt")]]
)
def test_unwrap_restores_what_trained_in_place(methods: Any) -> None:
    model = make("resnet")
    before = portrait(model)
    petl.wrap(model, methods)
    trained_by_hand(model, images("resnet", petl.in_chans(model)))
    assert differing(state(model), state(make("resnet")))
    petl.unwrap(model)
    assert portrait(model) == before


def test_unwrap_and_wrap_again() -> None:
    model = make("vit")
    for methods in ("lora", "adapter", "full"):
        petl.wrap(model, methods, num_classes=5)
        trained_by_hand(model, images("vit"))
        petl.unwrap(model)
    assert torch.equal(output(model, images("vit")), output(make("vit"), images("vit")))


def test_unwrap_refuses_when_a_frozen_tensor_has_moved() -> None:
    model = petl.wrap(make("vit"), "lora")
    with torch.no_grad():
        model.blocks[1].norm1.weight.add_(1)
    with pytest.raises(petl.StateError, match=r"blocks\.1\.norm1\.weight"):
        petl.unwrap(model)
    assert petl.record(model) and hasattr(model.blocks[0].attn.qkv, "lora")


def test_unwrap_after_moving_and_after_a_new_classifier() -> None:
    model = make("vit")
    before = portrait(model)
    petl.wrap(model, "lora", num_classes=5)
    model.reset_classifier(3)
    petl.unwrap(model)
    assert portrait(model) == before


def test_unwrap_takes_hooks_that_came_later_along() -> None:
    model, seen = petl.wrap(make("vit"), "lora"), []
    model.blocks[0].attn.qkv.register_forward_hook(lambda *_: seen.append(1))
    petl.unwrap(model)
    model(images("vit"))
    assert seen == [1]


def test_not_wrapped() -> None:
    for verb in (petl.unwrap, petl.merge, petl.summary):
        with pytest.raises(petl.StateError, match="not wrapped"):
            verb(make("vit"))
    assert petl.record(make("vit")) is None


@pytest.mark.parametrize("method", ["probe", "bn", "bias", "partial", "full"])
def test_a_model_on_meta_wraps_and_unwraps(method: str) -> None:
    with torch.device("meta"):
        model = timm.create_model("test_resnet")
    keys = list(model.state_dict())
    petl.wrap(model, method, num_classes=5)
    assert all(p.is_meta for p in model.parameters()) and petl.trainable(model)
    assert list(petl.unwrap(model).state_dict()) == keys
