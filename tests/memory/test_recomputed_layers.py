"""How much training steps keep for their backward."""

from __future__ import annotations

import pytest
from torch import nn

import petl
from petl.memory.modes import MEMORY_MODES
from tests.support.live_bytes import kept
from tests.support.steps import NORMS
from tests.support.zoo import images, make


@pytest.mark.sweep(1)
@pytest.mark.parametrize(("name", "shares"), [("resnet", (0.6, 0.5, 0.3)), ("vit", (1.01, 0.7, 0.2))])
def test_each_setting_keeps_less(name: str, shares: tuple[float, ...]) -> None:
    batch = images(name)
    plain = kept(petl.wrap(make(name), "lora", num_classes=7, fused=False), batch)
    found = [
        kept(petl.wrap(make(name), "lora", num_classes=7, memory=memory), batch) / plain for memory in MEMORY_MODES
    ]
    assert all(mine < most for mine, most in zip(found, shares, strict=True)), found


@pytest.mark.deep
def test_a_frozen_half_needs_no_layer_input() -> None:
    batch = images("resnet")
    both = kept(petl.wrap(make("resnet"), "lora", num_classes=7), batch)
    assert kept(petl.wrap(make("resnet"), "lora", freeze_down=True, num_classes=7), batch) < 0.8 * both


def test_frozen_convolutions_keep_nothing() -> None:
    batch = images("resnet")
    plain = kept(petl.wrap(make("resnet"), "bias", num_classes=7, fused=False), batch)
    assert kept(petl.wrap(make("resnet"), "bias", num_classes=7), batch) < 0.15 * plain


def test_norms_that_train_keep_their_input_alone() -> None:
    """Nor do ReLUs after them keep anything, whose input is made again."""
    model = petl.wrap(make("resnet"), NORMS, num_classes=7)
    inputs: list[int] = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda norm, args, out: inputs.append(out.nbytes))
    batch = images("resnet")
    seen = kept(model, batch)
    others = kept(petl.wrap(make("resnet"), "bias", num_classes=7), batch)  # every ReLU's bits, the pooling's places
    assert sum(inputs) < seen < sum(inputs) + others


@pytest.mark.sweep(1)
@pytest.mark.parametrize(("name", "most"), [("resnet", 0.9), ("efficientnet", 0.6)])
def test_between_norms_and_layers_that_train_nothing_is_kept(name: str, most: float) -> None:
    """A layer's input is made again from the input of the norm before it; "fast" keeps both."""
    batch, both = images(name), [NORMS, "lora"]
    fast, lean = (kept(petl.wrap(make(name), both, num_classes=7, memory=memory), batch) for memory in MEMORY_MODES[:2])
    assert lean < most * fast, lean / fast
