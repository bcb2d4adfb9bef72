"""The gradient scaler of fp16, on a CPU in float32: steps that it skips count for nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import petl
import petl.extraction.accelerator as accelerators
from petl.errors import PetlError
from petl.training.fit import fit
from tests.support.compare import equal, state
from tests.support.data import pairs
from tests.support.training import LOOKS, Breaking, adapted

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
OPTIONS: dict[str, Any] = {"epochs": 2, "lr": 1e-2, "batch_size": 8, "progress": False, "ema": 0.9}


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """As for fp16 on a GPU: a scaler, and gradients unscaled before they are clipped. It starts at the scale in the list."""
    checked, scale = accelerators._checked, [2.0]

    def with_scaler(accelerator: Any) -> Any:
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale[0])
        scaler, optimizers = accelerator.scaler, accelerator._optimizers
        accelerator.unscale_gradients = lambda: [scaler.unscale_(one.optimizer) for one in optimizers]
        return checked(accelerator)

    monkeypatch.setattr(accelerators, "_checked", with_scaler)
    return scale


class Overflowing(petl.Callback):
    """Makes the first gradients infinite, and notes how far the training is after each batch."""

    def __init__(self, times: int) -> None:
        self.seen: list[tuple[int, float]] = []
        self.left = times

    def on_fit_begin(self, run: petl.Training) -> None:
        run.model.fc.weight.register_hook(self.spoil)

    def spoil(self, gradient: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        return gradient * torch.inf if self.left >= 0 else gradient

    def on_batch_end(self, run: petl.Training, loss: float) -> None:
        self.seen.append((run.update, run.lr))


def test_a_scaled_training_is_the_same(scaled: list[float]) -> None:
    model, plain = adapted(), adapted()
    fit(model, pairs(24), clip=1.0, **OPTIONS)
    scaled[0] = 1.0
    fit(plain, pairs(24), clip=1.0, **OPTIONS)
    assert equal(state(model), state(plain))  # a power of two is no rounding


@pytest.mark.deep
def test_skipped_steps_advance_nothing(scaled: list[float]) -> None:
    """The first three overflow: the schedule and the averages begin with the fourth."""
    for clip in (None, 1.0):
        scaled[0], seen, model = 2.0**16, Overflowing(3), adapted()
        history = fit(model, pairs(48), callbacks=seen, warmup_epochs=1, clip=clip, **OPTIONS)
        assert [update for update, _ in seen.seen] == [0, 0, 0, *range(1, 10)]
        assert [lr for _, lr in seen.seen[:4]] == [pytest.approx(1e-4)] * 4 and seen.seen[4][1] > 1e-4
        assert history.rows[0]["train_loss"] < 5 and not equal(state(model), state(adapted()))
        assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.deep
def test_a_loss_out_of_range_is_skipped_but_not_for_ever(scaled: list[float]) -> None:
    model = adapted()
    history = fit(model, Breaking(LOOKS + 24, float("nan")), **{**OPTIONS, "epochs": 2})
    assert history.rows[0]["train_loss"] < 5 and all(p.isfinite().all() for p in model.parameters())
    assert history.rows[1]["train_loss"] == history.rows[1]["train_loss"]  # its first batch had a loss
    with pytest.raises(PetlError, match="loss is nan in epoch 12, update 4: try a lower lr"):
        fit(adapted(), Breaking(LOOKS + 24, float("nan")), **{**OPTIONS, "epochs": 99})
