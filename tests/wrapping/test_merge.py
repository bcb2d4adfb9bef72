"""`petl.merge` writes timm's own tensors with equal outputs, all or nothing."""

from __future__ import annotations

import pytest
import timm
import torch

import petl
from tests.support.compare import differing, portrait, state
from tests.support.steps import trained_by_hand
from tests.support.zoo import ZOO, disturb, images, make, output


@pytest.mark.sweep(5)
@pytest.mark.parametrize(
    "name", ["vit2", "beit", "swinv2", "efficientnet_same", "resnext", "nfnet", "coat", "mambaout", "densenet"]
)
@pytest.mark.sweep(3)
def test_merge_gives_timms_keys_and_equal_bits(name: str) -> None:
    model, batch = make(name), images(name)
    petl.wrap(model, [petl.LoRA(rank=2, where=("linear", "conv", "depthwise")), "bias"], num_classes=5)
    trained_by_hand(model, batch)
    before = output(model, batch)
    assert petl.merge(model) is model
    assert torch.equal(output(model, batch), before)
    architecture, _, arguments = ZOO[name]
    fresh = timm.create_model(architecture, num_classes=5, **arguments).eval()
    assert [*model.state_dict()] == [*fresh.state_dict()]
    assert {n: type(m) for n, m in model.named_modules()} == {n: type(m) for n, m in fresh.named_modules()}
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(output(fresh, batch), before)
    assert petl.record(model) is None and all(p.requires_grad for p in model.parameters())


def test_merge_in_training_mode_lets_held_norms_train_at_once() -> None:
    model = petl.merge(petl.wrap(make("resnet"), "lora", num_classes=5).train())
    assert all(m.training for m in model.modules())
    assert not any(m.training for m in petl.merge(petl.wrap(make("resnet"), "lora")).modules())


def test_merge_lets_held_norms_go() -> None:
    model = petl.merge(petl.wrap(make("resnet"), "lora", num_classes=5)).train()
    assert all(m.training for m in model.modules())
    before = state(model)
    model(images("resnet"))
    assert any("running_mean" in k for k in differing(before, state(model)))


def test_merge_is_all_or_nothing() -> None:
    model = petl.wrap(make("resnet"), ["bn", "lora", petl.Input(in_chans=1, bias=True)], num_classes=5)
    trained_by_hand(model, images("resnet", 1))
    before = portrait(model)
    with pytest.raises(petl.StateError, match=r"conv1.*input"):
        petl.merge(model)
    assert portrait(model) == before and petl.record(model)
    petl.unwrap(model)
    assert not differing(state(model), state(make("resnet")))


def test_merge_keeps_half_precision_and_layout() -> None:
    model = make("resnet").to(memory_format=torch.channels_last).bfloat16()
    batch = images("resnet").to(torch.bfloat16, memory_format=torch.channels_last)
    disturb(petl.wrap(model, "lora", num_classes=5))
    before = output(model, batch)
    petl.merge(model)
    assert torch.equal(output(model, batch), before) and {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.layer2[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
