"""The last or first blocks, and the whole model."""

from __future__ import annotations

import pytest
from torch import nn

import petl
from tests.support.zoo import make


def test_partial_last_and_first_blocks() -> None:
    names = {k for k, _ in make("vit").named_parameters()}
    last = {*petl.trainable(petl.wrap(make("vit"), "partial", last=1, num_classes=5))}
    assert last == {k for k in names if k.startswith(("blocks.2.", "norm.", "head."))}
    first = {*petl.trainable(petl.wrap(make("vit"), "partial", last=0, first=1, num_classes=5))}
    assert first == {k for k in names if not k.startswith(("blocks.1.", "blocks.2.", "norm."))}
    both = {*petl.trainable(petl.wrap(make("vit"), "partial", last=1, first=1, num_classes=5))}
    assert both == last | first


def test_partial_without_a_head() -> None:
    model = petl.wrap(make("resnet"), "partial", last=1, head=False)
    assert all(k.startswith("layer4.") for k in petl.trainable(model))


def test_partial_with_more_blocks_than_there_are() -> None:
    with pytest.raises(petl.SiteError, match="3 blocks"):
        petl.wrap(make("vit"), "partial", last=4)


def test_full_trains_everything() -> None:
    model = petl.wrap(make("resnet"), "full", num_classes=5)
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m.training for m in model.train().modules() if isinstance(m, nn.BatchNorm2d))
    assert all(
        m.training
        for m in petl.wrap(make("resnet"), "full", stats="adapt").train().modules()
        if isinstance(m, nn.BatchNorm2d)
    )
