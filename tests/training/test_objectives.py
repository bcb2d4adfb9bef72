"""What an objective is: evaluation and training ask it, and know nothing of classes themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petl.extraction.accelerator import private_accelerator
from petl.objectives.metrics import Metrics
from petl.training.evaluation import measure
from petl.training.objectives import CrossEntropy, Objective


class SquaredError:
    """A regression: targets are numbers [N], NaN where the image couldn't be read."""

    def refuse_targets(self, loader: Any, *, training: bool = False) -> None: ...

    def prepare(self, train: Any, device: torch.device) -> None: ...

    def images_and_targets(self, batch: Any, model: nn.Module) -> tuple[Tensor, Tensor]:
        return batch

    def is_read(self, targets: Tensor) -> Tensor:
        return targets == targets

    def loss(self, net: Callable[[Tensor], Any], images: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(net(images)[:, 0], targets)

    def per_image(self, output: Any, targets: Tensor) -> tuple[Tensor, ...]:
        return ((output[:, 0] - targets) ** 2,)

    def metrics(self, *columns: Tensor) -> Metrics:
        errors, targets = columns
        assert len(errors) == len(targets)
        return Metrics(errors.mean().item(), 0, 0, 0, 0, 0, [], [])


def test_an_objective_of_another_task_is_measured() -> None:
    objective: Objective = SquaredError()
    batches = [
        (torch.ones(2, 1), torch.tensor([1.0, 3.0])),
        (torch.ones(2, 1), torch.tensor([float("nan"), 5.0])),
    ]
    counted: list[int] = []
    with private_accelerator("no") as accelerator:
        metrics = measure(accelerator, nn.Identity(), batches, objective, lambda: counted.append(1))
    assert metrics.loss == pytest.approx((0 + 4 + 16) / 3) and len(counted) == 2


def test_cross_entropy_is_an_objective() -> None:
    objective: Objective = CrossEntropy(["cat", "dog"])
    logits, targets = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    loss = objective.loss(lambda images: images, logits, targets)
    assert loss == F.cross_entropy(logits, targets)
    metrics = objective.metrics(*objective.per_image(logits, targets), targets)
    assert metrics.accuracy == 0.5 and abs(metrics.loss - loss.item()) < 1e-6
    assert objective.is_read(torch.tensor([0, -100])).tolist() == [True, False]
