"""Mixed precision and the caller's own accelerator."""

from __future__ import annotations

import pytest
import timm
import torch
from accelerate import Accelerator

import petl
from petl.training.evaluation import evaluate
from petl.training.fit import fit
from tests.support.compare import equal, state
from tests.support.data import CLASSES, pairs
from tests.support.training import adapted

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.mark.deep
def test_bf16_and_back() -> None:
    """Two precisions in one process; the model's own forward is back, and it is still a float32 model."""
    states = []
    for precision in ("bf16", "no", "bf16"):
        model = adapted()
        history = fit(model, pairs(24), pairs(12, seed=1), epochs=2, lr=1e-2, batch_size=8, precision=precision)
        assert history.rows[-1]["train_loss"] < history.rows[0]["train_loss"]
        assert not {"forward", "_original_forward", "_is_accelerate_prepared"} & vars(model).keys()
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        states.append(state(model))
    assert equal(states[0], states[2])
    assert not equal(states[0], states[1])


def test_a_bfloat16_model_trains() -> None:
    model = petl.wrap(timm.create_model("test_resnet").bfloat16(), "full", num_classes=CLASSES)
    history = fit(model, pairs(24), pairs(6), epochs=3, lr=1e-2, batch_size=8)
    assert history.rows[-1]["train_loss"] < history.rows[0]["train_loss"]
    assert model.fc.weight.dtype == torch.bfloat16


def test_the_callers_accelerator_is_as_before() -> None:
    mine = Accelerator(gradient_accumulation_steps=4, mixed_precision="bf16", cpu=True)
    model = mine.prepare(adapted())
    evaluate(model, pairs(6))
    fit(model, pairs(8), epochs=1, lr=1e-3, batch_size=8, precision="no")
    assert mine.gradient_accumulation_steps == 4
    assert mine.mixed_precision == "bf16"
    assert model._is_accelerate_prepared
    batch = pairs(8).tensors[0]
    with torch.no_grad():
        assert not torch.equal(model(batch), type(model).forward(model, batch))  # it still runs in bf16
