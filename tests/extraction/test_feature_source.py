"""Training on features gives the same numbers as running the whole model in every step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

import petl
from tests.support.compare import gap, state
from tests.support.cut_models import BATCH, ROADS, built, late, partial, train
from tests.support.data import noise_pairs

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.mark.sweep(1)
@pytest.mark.parametrize(("method", "name", "start"), ROADS, ids=lambda v: getattr(v, "__name__", v))
def test_features_change_nothing(method: Callable[..., nn.Module], name: str, start: str) -> None:
    """Up to the last bits: the frozen part's kernels round differently for batches of another composition."""
    runs = []
    for cache in (False, None):
        model = method(built(name))
        before = state(model)
        history = train(model, val=noise_pairs(9, seed=1), cache=cache)
        runs.append((state(model), history))
        assert gap(before, runs[-1][0]) > 5e-3
    assert gap(runs[0][0], runs[1][0]) < 2e-4
    losses = [[(row["train_loss"], row["loss"]) for row in history.rows] for _, history in runs]
    assert np.allclose(*losses, atol=2e-4)
    assert runs[0][1].features == ""
    assert f"from {start} on" in runs[1][1].features
    assert "20 images" in runs[1][1].features
    assert runs[1][1].features in repr(runs[1][1])


def test_the_frozen_part_runs_once_per_image() -> None:
    """Between the epochs the model is whole."""
    model, seen, answers = partial(built()), [], []
    block: Any = model.blocks[0]  # type: ignore[index]

    def counted(x: Tensor, **options: Any) -> Tensor:  # a hook would move the cut
        seen.append(len(x))
        return type(block).forward(block, x, **options)

    block.forward = counted
    train(model, on_epoch=lambda row: answers.append(model(BATCH)))
    real = sum(seen)
    assert real - 3 * 2 <= 20 + 16  # one pass; the looks before it
    assert all(answer.isfinite().all() for answer in answers)
    assert vars(block)["forward"] is counted and "forward" not in vars(model.blocks[1])  # type: ignore[index]
    assert not model.blocks[5]._forward_pre_hooks


@pytest.mark.deep
@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"ema": 0.9, "keep": "best"}, {"accumulate": 2}])
def test_with_other_options(options: dict[str, Any]) -> None:
    runs = []
    for cache in (False, True):
        model = late(built())
        train(model, val=noise_pairs(9, seed=1), cache=cache, **options)
        runs.append(state(model))
    assert gap(*runs) < (5e-2 if "precision" in options else 2e-4)


def test_gradient_checkpointing_and_features() -> None:
    runs = []
    for cache in (False, True):
        model = partial(built())
        model.set_grad_checkpointing(True)
        train(model, cache=cache)
        runs.append(state(model))
    assert gap(*runs) < 2e-4


def test_dropout_above_is_the_same() -> None:
    """The same random numbers in the same order: the frozen part takes none."""
    runs = []
    for cache in (False, True):
        model = partial(built())
        model.blocks[5].mlp.drop1.p = 0.5
        train(model, cache=cache)
        runs.append(state(model))
    assert gap(*runs) < 2e-4


@pytest.mark.deep
def test_resuming_is_bit_equal(tmp_path: Path) -> None:
    def stop(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    whole, broken, resumed = (partial(built()) for _ in range(3))
    train(whole, epochs=4, checkpoint=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(broken, epochs=4, checkpoint=tmp_path / "broken", on_epoch=stop)
    history = train(resumed, epochs=4, checkpoint=tmp_path / "broken", resume=True)
    assert len(history) == 4
    assert gap(state(whole), state(resumed)) == 0


def test_what_is_measured_is_what_the_model_does() -> None:
    model, val = partial(built("test_resnet")), noise_pairs(9, seed=1)
    history = train(model, val=val)
    assert petl.evaluate(model, val, batch_size=8).loss == pytest.approx(history.rows[-1]["loss"], abs=1e-5)
