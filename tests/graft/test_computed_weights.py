"""Weights that torch computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import petl
from tests.support.zoo import disturb


@pytest.mark.parametrize("parametrize", ["weight_norm", "spectral_norm", "orthogonal"])
def test_lora_on_a_parametrised_layer(parametrize: str) -> None:
    """torch's parametrize makes a class of its own; the graft goes on top of it."""
    torch.manual_seed(0)
    layer = getattr(nn.utils.parametrizations, parametrize)(nn.Linear(6, 6)).eval()
    net, x = nn.Sequential(layer), torch.randn(2, 6)
    before = net(x)
    petl.wrap(net, "lora", rank=2, head=False).eval()
    assert torch.equal(net(x), before)
    disturb(net)
    assert not torch.equal(net(x), before)
    petl.unwrap(net)
    assert torch.equal(net(x), before)
