"""The loss: class weights, smoothing and mixed images, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from petl.training.fit import fit
from tests.support.data import pairs
from tests.support.training import adapted, initial_logits

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.mark.parametrize("weights", [[1.0, 2.0, 5.0], "balanced"])
def test_class_weights_by_hand(weights: Any) -> None:
    images, _ = pairs(12).tensors
    targets = torch.tensor([0] * 7 + [1] * 3 + [2] * 2)
    data, model = TensorDataset(images, targets), adapted("lora", "test_vit")
    logits = initial_logits(model, data)
    table = (
        compute_class_weight("balanced", classes=np.arange(3), y=targets.numpy()) if weights == "balanced" else weights
    )
    each = torch.tensor(np.asarray(table), dtype=torch.float32)[targets]
    wanted = (each * -logits.log_softmax(1)[range(12), targets]).sum() / each.sum()
    history = fit(model, data, epochs=1, lr=1e-3, batch_size=12, class_weights=weights)
    assert history.rows[0]["train_loss"] == pytest.approx(wanted.item(), rel=1e-5)
    assert wanted.item() != pytest.approx(F.cross_entropy(logits, targets).item(), rel=1e-3)


def test_label_smoothing_by_hand() -> None:
    data, model = pairs(12), adapted("lora", "test_vit")
    logs = initial_logits(model, data).log_softmax(1)
    wanted = -(0.7 * logs[range(12), data.tensors[1]] + 0.3 * logs.mean(1)).mean()
    history = fit(model, data, epochs=1, lr=1e-3, batch_size=12, label_smoothing=0.3)
    assert history.rows[0]["train_loss"] == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("mix", [{"mixup": 0.5}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}])
def test_mixes_change_images_and_targets(mix: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """21 images in batches of 8: the last one is odd and isn't mixed; all targets are soft, and smoothed once."""
    seen: list[Any] = []
    plain_loss = nn.CrossEntropyLoss.forward

    def spied(self: nn.CrossEntropyLoss, answers: Tensor, targets: Tensor) -> Tensor:
        seen.append((answers.detach(), targets))
        assert self.label_smoothing == 0
        return plain_loss(self, answers, targets)

    monkeypatch.setattr(nn.CrossEntropyLoss, "forward", spied)
    fit(adapted("lora", "test_vit"), pairs(21), epochs=1, lr=1e-3, batch_size=8, label_smoothing=0.3, **mix)
    targets = [targets for _, targets in seen]
    assert [len(batch) for batch in targets] == [8, 8, 5]
    assert all(torch.allclose(batch.sum(1), torch.ones(len(batch))) for batch in targets)
    assert torch.allclose(targets[2].sort(1).values, torch.tensor([0.1, 0.1, 0.8]).expand(5, 3))
    assert any(((batch > 0.11) & (batch < 0.79)).any() for batch in targets[:2])
    seen.clear()
    fit(adapted("lora", "test_vit"), pairs(21), epochs=1, lr=1e-3, batch_size=8)
    assert seen[0][1].dtype == torch.int64
