"""Learning rates of groups and epochs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from petl.training.fit import fit
from tests.support.data import pairs
from tests.support.training import adapted

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
