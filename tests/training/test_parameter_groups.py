"""Parameter groups hold what trains, once."""

from __future__ import annotations

import pytest

import petl
from tests.support.zoo import make


def test_param_groups_hold_what_trains_once() -> None:
    model = petl.wrap(make("vit"), ["bias", petl.LoRA(rank=2)], num_classes=5)
    for layer_decay in (None, 0.5):
        groups = petl.param_groups(model, lr=1e-2, layer_decay=layer_decay, weight_decay=0.05)
        held = [id(p) for group in groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in petl.trainable(model).values())
        decayed = {id(p) for group in groups if group["weight_decay"] > 0 for p in group["params"]}
        assert decayed == {id(p) for p in petl.trainable(model).values() if p.ndim > 1}
        assert max(group["lr"] for group in groups) == 1e-2
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    by_block = [rates[id(model.blocks[i].attn.qkv.lora.up)] for i in range(3)]
    assert by_block == sorted(by_block) and by_block[1] == pytest.approx(2 * by_block[0])
