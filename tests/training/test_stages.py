"""``unfreeze=``: a training in stages."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

import petl
from petl.errors import PetlError, StateError
from petl.training import loop
from petl.training.fit import fit
from petl.training.stage_plan import stage_plan
from tests.support.compare import equal, gap, state
from tests.support.data import pairs
from tests.support.training import adapted, without_time

pytestmark = [pytest.mark.deep, pytest.mark.usefixtures("fresh_accelerate")]
LATE: Any = petl.Partial(last=3)


class Watching(petl.Callback):
    """Notes before each step which tensors have a gradient, and with which rate and state the optimizer meets them."""

    def __init__(self, model: nn.Module):
        self.names = {p: name for name, p in model.named_parameters()}
        self.with_gradient: list[set[str]] = []
        self.rates: list[dict[str, float]] = []
        self.made: torch.optim.Optimizer | None = None

    def optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        self.made = torch.optim.AdamW(groups, weight_decay=0.1)
        self.made.register_step_pre_hook(lambda *_: self.look())
        return self.made

    def look(self) -> None:
        assert self.made is not None
        pairs_ = [(self.names[p], p, group["lr"]) for group in self.made.param_groups for p in group["params"]]
        self.with_gradient.append({name for name, p, _ in pairs_ if p.grad is not None})
        self.rates.append({name: rate for name, _, rate in pairs_})
        assert {*self.made.state} <= {p for p in self.names if p.requires_grad}


def trained(methods: Any, name: str = "test_vit", **options: Any) -> tuple[nn.Module, Any]:
    model = adapted(methods, name)
    options = {"epochs": 3, "batch_size": 8, "unfreeze": 1, "progress": False, **options}
    return model, fit(model, pairs(16), pairs(12, seed=1), **options)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
@pytest.mark.parametrize("methods", ["lora", "adapter", "norm", "full", LATE], ids=str)
def test_closed_blocks_have_no_gradient_and_keep_their_bits(methods: Any, name: str) -> None:
    model = adapted(methods, name)
    before, plan, watch = copy.deepcopy(state(model)), stage_plan(model), Watching(model)
    values: list[dict[str, Any]] = []
    history = fit(
        model,
        pairs(16),
        epochs=2,
        batch_size=8,
        unfreeze=1,
        optimizer=watch.optimizer,
        lr=0.01,
        weight_decay=0.1,
        on_epoch=lambda row: values.append(copy.deepcopy(state(model))),
    )
    first, second = {*plan.opening[0]}, {*plan.opening[0], *plan.opening[1]}
    assert watch.with_gradient == [first, first, second, second]
    later = {key for part in plan.opening[1:] for key in part}
    assert equal({key: values[0][key] for key in later}, {key: before[key] for key in later})
    buffers = {key for key in before if any(key.startswith(place) for place in ("bn1.", "layer1.", "conv1."))}
    assert equal({key: values[1][key] for key in buffers}, {key: before[key] for key in buffers})  # statistics too
    assert [row["stage"] for row in history.rows] == [1, 2]
    assert all(p.requires_grad for part in plan.opening for p in part.values())
    assert not any("train" in vars(module) for module in model.modules())
    assert "stage 2 of" in history.notes[-1] and "from epoch 2" in history.notes[-1]


@pytest.mark.parametrize(("methods", "name"), [("lora", "test_vit"), ("full", "test_resnet")])
def test_cached_stages_train_as_the_whole_model_does(methods: Any, name: str) -> None:
    cached, plain = trained(methods, name), trained(methods, name, cache=False)
    assert "in stage 1, " in cached[1].features
    assert " in stage 3 on" in cached[1].features
    assert plain[1].features == ""
    assert gap(state(cached[0]), state(plain[0])) < 1e-4


def test_new_groups_warm_up_while_the_schedule_goes_on() -> None:
    rates = []
    for unfreeze in (None, 2):
        model = adapted("lora", "test_vit")
        watch = Watching(model)
        fit(
            model,
            pairs(16),
            epochs=8,
            batch_size=4,
            lr=0.01,
            unfreeze=unfreeze,
            warmup_epochs=1.5,
            optimizer=watch.optimizer,
        )
        rates.append(
            [{name: rate[name] for name in ("head.weight", "blocks.4.mlp.fc1.lora.down")} for rate in watch.rates]
        )
    plain, staged = rates
    assert [r["head.weight"] for r in staged] == [r["head.weight"] for r in plain]
    block = [
        s["blocks.4.mlp.fc1.lora.down"] / p["blocks.4.mlp.fc1.lora.down"] for s, p in zip(staged, plain, strict=True)
    ]
    opened = 2 * 4
    assert block[opened:] == pytest.approx([min(1.0, k / 6) for k in range(1, 25)])


@pytest.mark.parametrize("schedule", ["none", "own"])
def test_the_warm_up_is_its_own_under_any_schedule(schedule: str) -> None:
    model = adapted("lora", "test_vit")
    watch = Watching(model)

    def linear(optimizer: torch.optim.Optimizer, updates: int) -> Any:
        return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, updates)

    how: dict[str, Any] = {"schedule": "none"} if schedule == "none" else {"scheduler": linear}
    fit(model, pairs(16), epochs=4, batch_size=4, lr=0.01, unfreeze=1, optimizer=watch.optimizer, **how)
    ratio = [r["blocks.4.mlp.fc1.lora.down"] / r["head.weight"] for r in watch.rates]
    assert ratio[4:8] == pytest.approx([0.5, 1.0, 1.0, 1.0])  # a tenth of 16 updates, rounded up


class Stop(Exception):
    """Ends a training."""


def stopping(epoch: int) -> Callable[[dict[str, Any]], None]:
    def on_epoch(row: dict[str, Any]) -> None:
        if row["epoch"] == epoch:
            raise Stop

    return on_epoch


CASES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "border": ("full", "test_resnet", {"unfreeze": 1, "stop": 2}),
    "inside": ("lora", "test_vit", {"unfreeze": 2, "stop": 3, "ema": 0.9, "accumulate": 2}),
    "stall": (["norm", "lora"], "test_vit", {"unfreeze": "stall", "patience": 1, "stop": 3, "ema": 0.9, "lr": 0.03}),
    "best": (LATE, "test_vit", {"unfreeze": 1, "stop": 1, "keep": "best", "layer_decay": 0.5}),
    "last": (LATE, "test_vit", {"unfreeze": 1, "stop": 4, "layer_decay": "gradients", "cache": False}),
}


@pytest.mark.sweep(1)
@pytest.mark.parametrize("case", CASES)
def test_resuming_is_bit_equal_across_stages(case: str, tmp_path: Path) -> None:
    methods, name, options = CASES[case]
    stop, options = options["stop"], {key: value for key, value in options.items() if key != "stop"}
    options = {"epochs": 5, **options}
    unbroken, history = trained(methods, name, **options, checkpoint=tmp_path / "whole")
    with pytest.raises(Stop):
        trained(methods, name, **options, checkpoint=tmp_path / "broken", on_epoch=stopping(stop))
    resumed, again = trained(methods, name, **options, checkpoint=tmp_path / "broken", resume=True)
    assert equal(state(resumed), state(unbroken))
    assert without_time(again) == without_time(history)
    assert again.notes == history.notes
    assert again.features == history.features


def test_an_update_that_fails_leaves_everything_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, plan = adapted("full", "test_resnet"), stage_plan(adapted("full", "test_resnet"))

    def fail(*_: Any) -> None:
        raise Stop

    monkeypatch.setattr(loop, "count_update", fail)
    with pytest.raises(Stop):
        fit(model, pairs(8), epochs=2, unfreeze=1)
    assert sum(p.requires_grad for p in model.parameters()) == sum(map(len, plan.opening))
    assert not any("train" in vars(module) for module in model.modules())


def test_a_delta_of_the_first_stage_holds_all(tmp_path: Path) -> None:
    model = adapted("lora", "test_vit")
    model.get_submodule("blocks.1.norm1").requires_grad_()  # unfrozen by hand: no method owns it
    keys = {*petl.trainable(model)}
    fit(model, pairs(8), epochs=1, unfreeze=1, out=tmp_path / "a.safetensors")
    torch.manual_seed(3)
    loaded = petl.load(tmp_path / "a.safetensors", timm.create_model("test_vit", img_size=64))
    assert keys <= {*petl.trainable(loaded)}
    assert equal({k: state(loaded)[k] for k in keys}, {k: state(model)[k] for k in keys})


def test_stall_opens_from_the_best_values(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.4, 0.3, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])

    def score(run: Any, row: dict[str, Any]) -> dict[str, float]:
        return {"accuracy": next(scores)}

    monkeypatch.setattr(loop, "validate_or_save", score)
    begins, ends = [], []

    class Values(petl.Callback):
        def on_batch_end(self, run: Any, loss: float) -> None:
            begins.append(copy.deepcopy(state(model)))

    model = adapted(LATE, "test_vit")
    history = fit(
        model,
        pairs(8),
        pairs(8),
        epochs=10,
        lr=1e-9,
        weight_decay=0,
        unfreeze="stall",
        patience=2,
        keep="best",
        callbacks=Values(),
        on_epoch=lambda row: ends.append(copy.deepcopy(state(model))),
    )
    assert [row["stage"] for row in history.rows] == [1, 1, 1, 2, 2, 2, 3, 3]
    assert history.stopped
    assert history.best["epoch"] == 4
    head = "head.weight"
    assert (begins[3][head] - ends[0][head]).abs().max() < (ends[2][head] - ends[0][head]).abs().max()
    assert equal(state(model), ends[3])


def test_default_epochs_cover_all_stages_and_too_few_are_said() -> None:
    _, history = trained("lora", epochs=3)
    assert "unfreeze=1: 3 of 7 stages open within 3 epochs; epochs=7 opens all" in history.notes
    assert history.epochs == 3
    model = adapted("norm", "test_resnet")
    history = fit(model, pairs(3), unfreeze=np.int64(15), batch_size=3, lr=0.1, cache=False)
    assert history.epochs == 15 * 5
    assert [row["stage"] for row in history.rows] == [1 + e // 15 for e in range(75)]
    assert not [note for note in history.notes if "open within" in note]


def test_regression_find_and_start(tmp_path: Path) -> None:
    images, targets = pairs(24).tensors
    numbers = torch.utils.data.TensorDataset(images, 100 + 50.0 * targets)
    torch.manual_seed(3)
    model = petl.wrap(timm.create_model("test_vit", img_size=64), "lora", num_classes=1)
    options: dict[str, Any] = {
        "epochs": 4,
        "objective": "regression",
        "unfreeze": "stall",
        "patience": 1,
        "batch_size": 8,
    }
    history = fit(model, numbers, numbers, **options, keep="best")
    assert petl.evaluate(model, numbers, progress=False).loss == pytest.approx(history.best["loss"], rel=1e-4)
    model, history = trained("lora", lr="find", start="probe", layer_decay="gradients")
    assert history.rate_search and "closed form" in history.head
    assert {row["stage"] for row in history.rows} == {1, 2, 3}


def test_compiled_stages() -> None:
    model, history = trained(petl.Partial(last=2), epochs=2, compile="aot_eager")
    plain, _ = trained(petl.Partial(last=2), epochs=2)
    assert gap(state(model), state(plain)) < 1e-4
    assert [row["stage"] for row in history.rows] == [1, 2]


@pytest.mark.parametrize(
    ("methods", "options", "words"),
    [
        ("probe", {"unfreeze": 1}, "classifier"),
        (petl.Probe(solver="sgd"), {"unfreeze": 1}, "classifier"),
        (petl.Partial(last=1), {"unfreeze": 1}, "one block"),
        ("lora", {"unfreeze": 0}, "at least 1"),
        ("lora", {"unfreeze": True}, "at least 1"),
        ("lora", {"unfreeze": "never"}, "'stall'"),
        ("lora", {"unfreeze": "stall"}, "patience"),
        ("lora", {"unfreeze": 1, "views": 2}, "views"),
    ],
)
def test_what_can_not_be(methods: Any, options: dict[str, Any], words: str) -> None:
    model = adapted(methods, "test_vit")
    before = copy.deepcopy(state(model))
    with pytest.raises(PetlError, match=words):
        fit(model, pairs(8), pairs(8), **options)
    assert equal(state(model), before)


def test_optimizers_that_can_not_be() -> None:
    model = adapted("lora", "test_vit")
    with pytest.raises(PetlError, match="optimizer=lambda groups"):
        fit(model, pairs(8), unfreeze=1, optimizer=torch.optim.AdamW(petl.param_groups(model, lr=1e-3)))
    with pytest.raises(PetlError, match="several stages"):
        fit(
            model,
            pairs(8),
            unfreeze=1,
            lr=0.1,
            optimizer=lambda _: torch.optim.SGD(petl.trainable(model).values(), 0.1),
        )


def test_a_checkpoint_of_other_stages_is_refused(tmp_path: Path) -> None:
    trained("lora", epochs=1, checkpoint=tmp_path)
    with pytest.raises(StateError, match="other settings"):
        trained("lora", epochs=1, unfreeze=None, checkpoint=tmp_path, resume=True)
