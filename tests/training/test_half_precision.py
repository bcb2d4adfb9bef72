"""The gradient scaler of fp16: steps that it skips count for nothing. On CPUs, with a scaler that float32 overflows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import petl
import petl.training.accelerator as accelerators
from petl.errors import PetlError
from petl.training.fit import fit
from tests.support.compare import equal, state
from tests.support.data import pairs
from tests.support.training import Breaking, adapted

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
OPTIONS: dict[str, Any] = {"epochs": 2, "lr": 1e-2, "batch_size": 8, "progress": False, "ema": 0.9}


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """As for fp16 on a GPU, a scaler; it starts at the scale in the list."""
    checked, scale = accelerators._checked, [2.0]

    def with_scaler(accelerator: Any) -> Any:
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale[0])
        return checked(accelerator)

    monkeypatch.setattr(accelerators, "_checked", with_scaler)
    return scale


class Updates(petl.Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []

    def on_batch_end(self, run: petl.Training, loss: float) -> None:
        self.seen.append((run.update, run.lr))


def test_a_scaled_training_is_the_same(scaled: list[float]) -> None:
    model, plain = adapted(), adapted()
    fit(model, pairs(24), clip=1.0, **OPTIONS)
    scaled[0] = 1.0
    fit(plain, pairs(24), clip=1.0, **OPTIONS)
    assert equal(state(model), state(plain))  # a power of two is no rounding


def test_skipped_steps_advance_nothing(scaled: list[float]) -> None:
    """The first three overflow, at a scale of 2**127: the schedule and the averages begin when the scaler has found its own."""
    scaled[0] = 2.0**127
    seen, model = Updates(), adapted()
    history = fit(model, pairs(48), callbacks=seen, warmup_epochs=1, **OPTIONS)
    skipped = sum(update == 0 for update, _ in seen.seen)
    assert skipped > 1 and [update for update, _ in seen.seen] == [0] * skipped + [*range(1, 13 - skipped)]
    assert [lr for _, lr in seen.seen[: skipped + 1]] == [pytest.approx(1e-4)] * (skipped + 1)
    assert history.rows[0]["train_loss"] < 5 and not equal(state(model), state(adapted()))


def test_a_loss_out_of_range_is_skipped_but_not_for_ever(scaled: list[float]) -> None:
    model = adapted()
    history = fit(model, Breaking(1 + 24, float("nan")), **{**OPTIONS, "epochs": 2})
    assert history.rows[0]["train_loss"] < 5 and all(p.isfinite().all() for p in model.parameters())
    assert history.rows[1]["train_loss"] == history.rows[1]["train_loss"]  # its first batch had a loss
    with pytest.raises(PetlError, match="loss is nan in epoch 12, update 4: try a lower lr"):
        fit(adapted(), Breaking(1 + 24, float("nan")), **{**OPTIONS, "epochs": 99})
