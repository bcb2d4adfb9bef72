"""Levels in order: the loss by hand, kappa against scikit-learn's, and the median as the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn import metrics as oracle
from torch.utils.data import TensorDataset

import petl
from petl.format.ordinal_outputs import level_probabilities, ordinal_levels
from petl.objectives.ordinal import cumulative_losses, ordinal_metrics, quadratic_kappa
from tests.support.data import pairs
from tests.support.training import adapted

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def test_figures_are_scikit_learns() -> None:
    chance = torch.Generator().manual_seed(0)
    truth = torch.randint(4, (70,), generator=chance)
    guess = (truth + torch.randint(-1, 2, (70,), generator=chance)).clamp(0, 3)
    found = ordinal_metrics(torch.rand(70), guess, truth, list("abcd"))
    assert found.quadratic_kappa == pytest.approx(oracle.cohen_kappa_score(truth, guess, weights="quadratic"))
    assert found.mean_absolute_error == pytest.approx(oracle.mean_absolute_error(truth, guess))
    assert found.standard_errors.keys() == found.scalars.keys() and found.baseline["quadratic_kappa"] == 0
    assert found.baseline["mean_absolute_error"] == pytest.approx((truth - truth.median()).abs().float().mean().item())
    assert "always" in repr(found) and repr(found).splitlines()[2].split()[0] == "a"
    assert torch.tensor(quadratic_kappa(torch.tensor([[5, 0], [0, 0]]))).isnan()


def test_the_loss_by_hand() -> None:
    outputs, targets = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double(), torch.arange(6) % 4
    above = 1 - outputs.softmax(1).cumsum(1)[:, :3]
    truly = (targets[:, None] > torch.arange(3)).double()
    wanted = torch.nn.functional.binary_cross_entropy(above, truly, reduction="none").mean(1)
    assert torch.allclose(cumulative_losses(outputs, targets), wanted)
    assert torch.allclose(cumulative_losses(outputs, targets, squared=True), (above - truly).square().mean(1))
    far = cumulative_losses(torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0]]), torch.tensor([2, 2]))
    assert far[0] > far[1]
    assert cumulative_losses(torch.tensor([[200.0, 0.0, 0.0]]), torch.tensor([2])).isfinite().all()


def test_the_answer_is_the_median() -> None:
    outputs = torch.tensor([[0.35, 0.30, 0.35], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]]).log()
    assert ordinal_levels(outputs).tolist() == [1, 2, 0]
    assert level_probabilities(outputs).sum(-1).tolist() == pytest.approx([1, 1, 1])


def test_a_training_on_levels(tmp_path: Path) -> None:
    model, train, val = adapted(), pairs(24), pairs(12, seed=1)
    options: dict[str, Any] = {"labels": ["low", "middle", "high"], "objective": petl.Ordinal(loss="squared")}
    history = petl.fit(model, train, val, epochs=2, lr=1e-2, batch_size=8, out=tmp_path / "a.safetensors", **options)
    header, metrics = petl.read(tmp_path / "a.safetensors"), petl.evaluate(model, val)
    assert history.monitor == "quadratic_kappa" and header["task"] == "ordinal" and header["labels"][2] == "high"
    assert isinstance(metrics, petl.OrdinalMetrics) and metrics.labels == options["labels"]
    with pytest.raises(petl.DataError, match="label 3"):
        petl.fit(
            adapted(), TensorDataset(train.tensors[0], train.tensors[1] + 1), epochs=1, lr=1e-2, objective="ordinal"
        )
