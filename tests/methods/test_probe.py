"""The linear probe runs the backbone without a graph."""

from __future__ import annotations

import pytest
import timm
import torch

import petl
from tests.support.zoo import images, make


@pytest.mark.parametrize("name", ["resnet", "deit_distilled", "swin"])
def test_probe_keeps_no_graph(name: str) -> None:
    model = petl.wrap(make(name), "probe", num_classes=5).train()
    features = model.forward_features(images(name))
    assert not features.requires_grad and features.grad_fn is None
    result = model(images(name))
    assert all(t.requires_grad for t in (result if isinstance(result, tuple) else [result]))
    head = {name for name, _ in model.named_modules() if name.startswith("head") or name == "fc"}
    awake = {name for name, module in model.named_modules() if module.training and name}
    assert awake <= head
    assert awake


def test_probe_keeps_dropout_of_the_backbone_off() -> None:
    model = petl.wrap(timm.create_model("test_resnet", drop_path_rate=0.9), "probe", num_classes=5).train()
    x = images("resnet")
    assert torch.equal(model.forward_features(x), model.forward_features(x))
