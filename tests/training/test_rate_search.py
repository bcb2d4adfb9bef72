"""``lr="find"`` and `petl.find_lr`: what they choose, and that nothing is left of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import petl
from petl.errors import PetlError
from petl.training import rate_search
from petl.training.fit import fit
from petl.training.rate_search import chosen_rate, valley
from tests.support.compare import equal, state
from tests.support.data import noise_pairs, pairs
from tests.support.training import adapted, without_time

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A curve of 24 updates shows what one of 100 does, in a quarter of the time."""
    for name, value in {"UPDATES": 24, "SMOOTHING": 0.8, "LEAST_FALL": 0.0}.items():
        monkeypatch.setattr(rate_search, name, value)


FOUND: list[Any] = [
    (["norm", "lora"], "test_resnet", {}),
    ("bn", "test_resnet", {"accumulate": 2, "ema": 0.9, "layer_decay": 0.8}),  # statistics that move
    ("lora", "test_vit", {"schedule": "none", "precision": "bf16"}),
    (petl.Partial(last=1), "test_resnet", {"cache": True}),
    ("full", "test_efficientnet", {"optimizer": "nadamw", "mixup": 0.2}),
]


@pytest.mark.sweep(1)
@pytest.mark.parametrize(("methods", "name", "options"), FOUND, ids=lambda value: str(value)[:20])
@pytest.mark.deep
def test_a_training_with_the_found_number_is_the_same_to_the_bit(methods: Any, name: str, options: Any) -> None:
    """The test changes nothing but the rates: neither model nor statistics, order, random states, or the optimizer."""
    given: dict[str, Any] = {"batch_size": 4, "epochs": 2, "start": None, **options}  # a start has little left to find

    def run(lr: str) -> tuple[Any, Any]:
        model = adapted(methods, name)
        return state(model), (model, fit(model, pairs(12), pairs(6, seed=1), lr=lr, **given))

    _, (found, history) = run("find")
    assert history.rate_search is not None and len(history.rate_search["losses"]) > 10
    _, (repeated, again) = run(history.rate_search["lr"])
    assert equal(state(found), state(repeated))
    assert without_time(history) == without_time(again)
    assert history.rates == again.rates
    assert f"chose lr={history.rate_search['lr']!r}" in history.notes[0]


@pytest.mark.deep
def test_a_loader_with_a_generator_of_its_own_gives_the_same_batches() -> None:
    def run(lr: Any) -> Any:
        model = adapted("norm")
        loader = DataLoader(pairs(12), 4, shuffle=True, generator=torch.Generator().manual_seed(5))
        history = fit(model, loader, epochs=1, lr=lr)
        return state(model), history

    found, history = run("find")
    assert equal(found, run(history.rate_search["lr"])[0])


def test_find_lr_leaves_the_model_as_it_is() -> None:
    model = adapted(["bn", "lora"]).train()
    before, modes = state(model), [module.training for module in model.modules()]
    record = petl.record(model)
    found = petl.find_lr(model, pairs(8), batch_size=4, labels=["a", "b", "c"])
    assert equal(state(model), before)
    assert [module.training for module in model.modules()] == modes
    assert record is not None and record.labels is None and not record.results
    assert found.lr == f"x{found.factor:g}" and found.lr in repr(found)
    for bad in ({"lr": 1e-3}, {"batchsize": 8}, {"epochs": 2}):
        with pytest.raises(PetlError, match="find_lr has no option"):
            petl.find_lr(model, pairs(16), **bad)


def test_the_curve_is_in_the_run_file(tmp_path: Path) -> None:
    out = tmp_path / "found.safetensors"
    history = fit(adapted("probe"), pairs(12), pairs(9, seed=1), epochs=1, batch_size=4, lr="find", views=0, out=out)
    written = json.loads((tmp_path / "found.history.json").read_text())
    assert written["settings"]["lr"] == "find"
    assert written["history"]["rate_search"] == history.rate_search
    assert written["history"]["rates"] == history.rates


def test_the_valley_is_fastais() -> None:
    """fastai's own rule, written as there, gives the same place on curves of every kind."""
    chance = torch.Generator().manual_seed(0)
    for _ in range(20):
        curve = torch.rand(60, generator=chance).cumsum(0).flip(0).add(torch.rand(60, generator=chance) * 9).tolist()
        assert valley(curve) == max(0, fastai_valley(curve))


def fastai_valley(losses: list[float]) -> int:
    n, max_start, max_end = len(losses), 0, 0
    lds = [1] * n
    for i in range(1, n):
        for j in range(i):
            if losses[i] < losses[j] and lds[i] < lds[j] + 1:
                lds[i] = lds[j] + 1
            if lds[max_end] < lds[i]:
                max_end = i
                max_start = max_end - lds[max_end]
    sections = (max_end - max_start) / 3
    return max_start + int(sections) + int(sections / 2)


def test_curves_that_show_no_rate_give_the_default() -> None:
    rates = [10 ** (-7 + 8 * k / 99) for k in range(100)]
    flat = chosen_rate(rates, [2.3] * 100, top=1e-2)
    early = chosen_rate(rates[:8], [2.3] * 8, top=1e-2)
    good = chosen_rate(rates, [2.3 - 2 * math.exp(-(((k - 70) / 15) ** 2)) for k in range(100)], top=1e-2)
    assert (flat.factor, early.factor) == (1.0, 1.0)
    assert "doesn't fall" in repr(flat) and "diverged within 8" in repr(early)
    assert not good.why and 1e-4 < good.factor * 1e-2 < rates[75]


def test_noise_is_trained_on_with_the_default_rates_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_search, "LEAST_FALL", 0.02)
    history = fit(adapted("probe"), noise_pairs(6), epochs=1, batch_size=6, lr="find", optimizer=frozen)
    assert history.rate_search is not None and history.rate_search["factor"] == 1.0
    assert "the default rates are taken" in history.notes[0]


def frozen(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """An optimizer that changes nothing."""

    class Still(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return None

    return Still(groups)
