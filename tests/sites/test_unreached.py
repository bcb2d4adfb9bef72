"""What no method reaches, and why."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import petl
from tests.support.places import names
from tests.support.zoo import make


def test_layers_that_never_run_are_left_out() -> None:
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(x).mean((2, 3))

    assert names(Spare(), ("linear", "conv")) == ["used"]


OWN = "own, neither matrix nor bias of a layer: 'full' or 'partial' train it"
LEFT = {
    "vit": {"cls_token": f"VisionTransformer's {OWN}", "pos_embed": f"VisionTransformer's {OWN}"},
    "beit": {
        "blocks.0.attn.q_bias": "a bias of no layer with a role: 'bias' trains it",
        "blocks.1.attn.relative_position_bias_table": f"Attention's {OWN}",
    },
    "levit": {"stages.0.blocks.0.attn.attention_biases": f"Attention's {OWN}"},
    "swinv2": {"layers.0.blocks.0.attn.logit_scale": f"WindowAttention's {OWN}"},
    "nfnet": {"stem.conv1.gain": f"ScaledStdConv2d's {OWN}"},
    "resnet": {},
    "sequencer": {},
    "condconv": {},
    "lowformer": {},
}


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", LEFT)
def test_all_says_what_is_not_reached_and_why(name: str) -> None:
    """Every parameter is reached by a role or listed with its reason, never both, never neither."""
    model, sites = make(name), petl.find(make(name), "all")
    left = {entry.name: entry for entry in sites.left}
    assert LEFT[name].items() <= {n: entry.why for n, entry in left.items()}.items()
    assert bool(left) == bool(LEFT[name])
    layers = {site.name for site in sites if {"linear", "conv", "depthwise", "norm", "head"} & {*site.roles}}
    for key, parameter in model.named_parameters():
        assert (key in left) != (key.rpartition(".")[0] in layers) or key.endswith(".gain")
        assert key not in left or left[key].shape == parameter.shape
    table = repr(sites)
    assert all(entry.name in table and entry.why in table for entry in left.values())


def test_what_the_forward_never_reads_is_left_with_that_reason() -> None:
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare, self.token = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Parameter(torch.ones(4))

        def forward(self, x):
            return self.used(x).mean((2, 3)) * self.token

    left = {entry.name: entry.why for entry in petl.find(Spare(), "all").left}
    never = "not read in the forward"
    assert left == {"token": f"Spare's {OWN}", "spare.weight": never, "spare.bias": never}
    assert not petl.find(Spare(), "conv").left


@pytest.mark.parametrize("name", ["beit", "swinv2", "eva_fused"])
def test_weights_that_are_read_without_a_call_count_as_running(name: str) -> None:
    assert any(n.endswith("attn.qkv") for n in names(make(name), "linear"))
