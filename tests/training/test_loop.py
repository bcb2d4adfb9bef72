"""The training loop, against loops by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV3

import petl
from petl.data.batches import loader, set_epoch
from petl.errors import PetlError
from petl.training.fit import fit
from tests.support.compare import equal, gap, state
from tests.support.data import pairs
from tests.support.training import LOOKS, Breaking, adapted

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.mark.sweep(1)
@pytest.mark.parametrize(
    ("methods", "name", "lr"),
    [("bn", "test_resnet", 1e-2), (["bias", petl.LoRA(rank=4)], "test_vit", 1e-2), ("full", "test_efficientnet", 1e-2)],
)
def test_it_learns_and_leaves_frozen_tensors_alone(methods: Any, name: str, lr: float) -> None:
    model = adapted(methods, name)
    before, trains = state(model), set(petl.trainable(model))
    history = fit(model, pairs(48), pairs(30, seed=1), epochs=5, lr=lr, batch_size=8)
    after = state(model)
    assert history.rows[-1]["train_loss"] < 0.7 * history.rows[0]["train_loss"]
    assert history.best["accuracy"] >= 0.8
    assert not [key for key in before if key not in trains and "running" not in key and "num_batches" not in key
                and not torch.equal(before[key], after[key])]  # fmt: skip
    assert all(not torch.equal(before[key], after[key]) for key in trains)
    assert petl.record(model).moved() == []
    assert not any(module.training for module in model.modules())


def test_it_is_the_plain_loop_and_the_plain_average() -> None:
    """Bit for bit what a hand-written loop over the same batches gives, averaged weights included."""
    data, run, hand = pairs(21), adapted(), adapted()
    ema, batches = ModelEmaV3(hand, decay=0.9, use_warmup=True), loader(data, batch_size=8, training=True, seed=7)
    optimizer = torch.optim.SGD(petl.param_groups(hand, lr=0.05, weight_decay=0.1), lr=0.05)
    step = 0
    for epoch in range(2):
        set_epoch(batches, epoch)
        hand.train()
        for images, targets in batches:
            F.cross_entropy(hand(images), targets).backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            ema.update(hand, step=step)
    settings: dict[str, Any] = {
        "epochs": 2,
        "lr": 0.05,
        "batch_size": 8,
        "weight_decay": 0.1,
        "seed": 7,
        "schedule": "none",
    }
    plain = copy.deepcopy(run)
    fit(plain, data, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.05), **settings)
    fit(run, data, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.05), ema=0.9, **settings)
    assert equal(state(plain), state(hand))
    assert equal(state(run), state(ema.module))
    assert not equal(state(run), state(plain))


@pytest.mark.deep
def test_the_seed_decides() -> None:
    runs = []
    for seed in (0, 0, 1):
        model = adapted()
        torch.manual_seed(seed * 100)  # what happened before must not matter
        fit(model, pairs(), epochs=1, lr=1e-2, batch_size=8, mixup=0.3, seed=seed)
        runs.append(state(model))
    assert equal(runs[0], runs[1])
    assert not equal(runs[0], runs[2])


def test_accumulation_is_a_larger_batch() -> None:
    """Also in the last window, which is short here, and for its last batch of two images."""
    states = []
    for batch_size, accumulate in ((12, 1), (4, 3)):
        model = adapted("lora", "test_vit")
        options: dict[str, Any] = {"optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1), "schedule": "none"}
        history = fit(model, pairs(22), epochs=2, lr=0.1, batch_size=batch_size, accumulate=accumulate, **options)
        states.append((state(model), history.rows[-1]["train_loss"]))
    assert gap(states[0][0], states[1][0]) < 1e-5
    assert states[0][1] == pytest.approx(states[1][1], abs=1e-5)
    assert gap(states[0][0], state(adapted("lora", "test_vit"))) > 1e-3


def test_clipping_bounds_the_step() -> None:
    steps = []
    for clip in (None, 0.01):
        model = adapted("lora", "test_vit")
        before = {name: p.detach().clone() for name, p in petl.trainable(model).items()}
        options: dict[str, Any] = {"optimizer": lambda groups: torch.optim.SGD(groups, lr=1.0), "schedule": "none"}
        fit(model, pairs(8), epochs=1, lr=1.0, batch_size=8, clip=clip, weight_decay=0.0, **options)
        steps.append(torch.cat([(p - before[n]).flatten() for n, p in petl.trainable(model).items()]).norm().item())
    assert steps[0] > 0.05
    assert steps[1] == pytest.approx(0.01, rel=1e-3)


def test_early_stopping_stops() -> None:
    history = fit(adapted(), pairs(8), pairs(8, seed=1), epochs=9, lr=1e-12, batch_size=8, patience=2, monitor="f1")
    assert history.stopped
    assert len(history) <= 5
    assert history.stale == 2
    going = fit(adapted(), pairs(8), pairs(8, seed=1), epochs=4, lr=1e-12, batch_size=8, monitor="f1")
    assert not going.stopped
    assert len(going) == 4


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    model, path = adapted(), tmp_path / "best.safetensors"
    with pytest.raises(PetlError, match=r"loss is nan in epoch 2, update 3: try a lower lr .*holds epoch 1"):
        fit(model, Breaking(LOOKS + 16, float("nan")), epochs=3, lr=1e-2, batch_size=8, out=path)
    assert petl.read(path)["results"]["epoch"] == 1
    assert all(p.isfinite().all() for p in model.parameters())
