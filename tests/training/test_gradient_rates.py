"""``layer_decay="gradients"``: rates of blocks by their relative gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from petl.training import rate_search
from petl.training.fit import fit
from tests.support.compare import equal, state
from tests.support.data import pairs
from tests.support.training import adapted, without_time

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


class Stop(Exception):
    """Ends a training in the middle."""


def test_the_factors_are_relative_gradient_norms() -> None:
    made: list[torch.optim.Optimizer] = []

    def build(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        made.append(torch.optim.AdamW(groups))
        return made[0]

    model, data = adapted("full", "test_vit"), pairs(8)
    expected = adapted("full", "test_vit").train()
    F.cross_entropy(expected(data.tensors[0]), data.tensors[1]).backward()
    depths = {"patch_embed": 7, **{f"blocks.{i}": 6 - i for i in range(6)}, "norm": 1}
    ratios = {}
    for depth in range(1, 7):
        block = [
            p
            for name, p in expected.named_parameters()
            for at, d in depths.items()
            if name.startswith(at) and d == depth
        ]
        size = torch.cat([p.flatten() for p in block]).norm()
        ratios[depth] = float(torch.cat([p.grad.flatten() for p in block if p.grad is not None]).norm() / size.detach())
    history = fit(model, data, epochs=1, batch_size=8, layer_decay="gradients", optimizer=build, lr=1e-3)
    found = {group["depth"]: group["lr_scale"] for group in made[0].param_groups if group["depth"] in ratios}
    by_ratio = [found[d] / ratios[d] for d in ratios]
    assert by_ratio == pytest.approx([by_ratio[0]] * len(by_ratio), rel=1e-4)
    assert max(group["lr_scale"] for group in made[0].param_groups) == 1.0
    assert "layer_decay='gradients'" in history.notes[0]


@pytest.mark.deep
def test_the_classifier_keeps_its_rate_and_a_repeat_is_bit_equal() -> None:
    values = []
    for _ in range(2):
        model = adapted(["norm", "lora"])
        history = fit(model, pairs(16), epochs=2, batch_size=8, layer_decay="gradients", start=None)
        values.append((state(model), history))
    assert equal(values[0][0], values[1][0])
    assert history.rates["head"] == max(history.rates.values())


@pytest.mark.deep
def test_resuming_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_search, "UPDATES", 20)

    def run(folder: str, **options: Any) -> tuple[Any, Any]:
        model = adapted("norm", "test_vit")
        return state_after(model, tmp_path / folder, options)

    def stop(row: dict[str, Any]) -> None:
        if row["epoch"] == 1:
            raise Stop

    with pytest.raises(Stop):
        run("broken", on_epoch=stop)
    whole, resumed = run("whole"), run("broken", resume=True)
    assert equal(whole[0], resumed[0])
    assert without_time(whole[1]) == without_time(resumed[1])
    assert (whole[1].notes, whole[1].rates, whole[1].epochs) == (resumed[1].notes, resumed[1].rates, resumed[1].epochs)


def state_after(model: Any, folder: Path, options: dict[str, Any]) -> tuple[Any, Any]:
    history = fit(
        model, pairs(8), batch_size=4, epochs=2, layer_decay="gradients", lr="find", checkpoint=folder, **options
    )
    return state(model), history


def test_where_only_the_classifier_trains_nothing_changes() -> None:
    history = fit(adapted("probe"), pairs(16), epochs=1, batch_size=8, layer_decay="gradients")
    assert "all keep their rates" in history.notes[0]
