"""`evaluate`: the model in eval mode, which is left as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch.nn.functional as F
from sklearn import metrics as oracle
from torch.utils.data import DataLoader, TensorDataset

from petl.training.evaluation import evaluate
from tests.support.compare import equal, state
from tests.support.data import pairs
from tests.support.training import adapted, initial_logits

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def test_evaluate_is_the_model_in_eval_and_restores_each_mode() -> None:
    model, data = adapted(), pairs(13)
    model.train()
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    before, found = state(model), evaluate(model, data, batch_size=5)
    assert [module.training for module in model.modules()] == modes
    assert equal(state(model), before)
    logits = initial_logits(model, data)
    assert found.loss == pytest.approx(F.cross_entropy(logits, data.tensors[1]).item(), rel=1e-5)
    assert found.accuracy == oracle.accuracy_score(data.tensors[1], logits.argmax(1))
    assert sum(map(sum, found.confusion)) == 13
    assert {"loss", "accuracy", "classes", "confusion"} <= json.loads(json.dumps(vars(found), default=vars)).keys()


def test_evaluate_takes_what_fit_takes() -> None:
    model, data = adapted(), pairs(10)
    ways: list[Any] = [data, DataLoader(data, batch_size=3, shuffle=True), [data[i] for i in range(10)]]
    found = [evaluate(model, way, labels=["x", "y", "z"]) for way in ways]
    assert all(metrics.confusion == found[0].confusion for metrics in found)
    assert found[0].classes[2].label == "z"


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_images_with_nan_are_not_counted(broken: float, caplog: pytest.LogCaptureFixture) -> None:
    images, targets = pairs(9).tensors
    wrong = images.clone()
    wrong[2, 0, 1, 1] = wrong[5, 1] = broken
    good = [0, 1, 3, 4, 6, 7, 8]
    wanted = evaluate(adapted(), TensorDataset(images[good], targets[good]))
    found = evaluate(adapted(), TensorDataset(wrong, targets), batch_size=4)
    assert found.images == 7 and found.confusion == wanted.confusion and found.loss == pytest.approx(wanted.loss)
    assert "2 of 9 images have pixels that are NaN or infinite" in caplog.text
