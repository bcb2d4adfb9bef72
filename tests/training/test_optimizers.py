"""Parameter groups, and the learning rates of groups and epochs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import petl
from petl.training.fit import fit
from tests.support.data import pairs
from tests.support.training import adapted
from tests.support.zoo import make

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def test_schedule_and_layer_decay() -> None:
    """Linear warm-up, then a cosine to nothing; earlier layers have their share of the rate, once."""
    made: list[Any] = []
    rates: list[list[float]] = []

    class Watched(torch.optim.AdamW):
        def step(self, closure: Any = None) -> Any:
            rates.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    def build(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        made.append(groups)
        return Watched(groups, lr=1e-2)

    model = adapted("lora", "test_vit")
    fit(model, pairs(32), epochs=5, lr=1e-2, batch_size=8, warmup_epochs=1, layer_decay=0.5, optimizer=build)
    scales = [group["lr_scale"] for group in made[0]]
    top = [max(row) for row in rates]
    assert len(rates) == 20
    assert top[0] == pytest.approx(1e-4)
    assert top[:4] == sorted(top[:4])
    assert top[4] == max(top)
    assert top[4] == pytest.approx(1e-2, rel=0.1)
    assert top[4:] == sorted(top[4:], reverse=True)
    assert top[-1] < 1e-4
    assert min(scales) < 0.2
    assert all(row == pytest.approx([max(row) * scale for scale in scales]) for row in rates)


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
