"""Features for retrieval: losses by hand, recalls by counting, and what trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from sklearn import metrics as oracle
from torch.utils.data import TensorDataset

import petl
from petl.objectives.metric_learning import nt_xent_loss, triplet_loss
from petl.objectives.retrieval_metrics import retrieval_metrics
from tests.support.data import pairs
from tests.support.training import adapted

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
CHANCE = torch.Generator().manual_seed(0)
UNIT = F.normalize(torch.randn(12, 5, generator=CHANCE).double(), dim=1)
CLASSES = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 0])


def test_recalls_are_counted() -> None:
    found = retrieval_metrics(UNIT * 7, CLASSES)
    similar = UNIT @ UNIT.T
    first, precision = [], []
    for query in range(12):
        others = [i for i in range(12) if i != query]
        same = [bool(CLASSES[i] == CLASSES[query]) for i in others]
        if any(same):
            scores = similar[query, others].numpy()
            first.append(same[int(scores.argmax())])
            precision.append(oracle.average_precision_score(same, scores))
    assert found.queries == 11 and found.images == 12
    assert found.recall_at_1 == pytest.approx(sum(first) / 11)
    assert found.mean_average_precision == pytest.approx(sum(precision) / 11)
    assert found.standard_errors.keys() == found.scalars.keys() and "random order" in repr(found)
    with pytest.raises(petl.DataError, match="no two images"):
        retrieval_metrics(UNIT[:3], torch.arange(3))


def test_the_baseline_is_a_random_order() -> None:
    targets = torch.arange(200) % 4
    features = torch.randn(200, 64, generator=CHANCE)
    found = retrieval_metrics(features, targets)
    for name in ("recall_at_1", "recall_at_5"):
        assert getattr(found, name) == pytest.approx(found.baseline[name], abs=4 * found.standard_errors[name])


def test_losses_by_hand() -> None:
    hardest = []
    for i in range(12):
        far = 1 - UNIT @ UNIT[i]
        same = (CLASSES[i] == CLASSES) & (torch.arange(12) != i)
        if same.any():
            hardest.append(F.relu(far[same].max() - far[CLASSES[i] != CLASSES].min() + 0.2))
    assert triplet_loss(UNIT, CLASSES, 0.2).item() == pytest.approx(torch.stack(hardest).mean().item())
    each = []
    for i in range(12):
        others = torch.arange(12) != i
        logs = F.log_softmax((UNIT[others] @ UNIT[i]) / 0.1, 0)
        same = CLASSES[others] == CLASSES[i]
        if same.any():
            each.append(-logs[same].mean())
    assert nt_xent_loss(UNIT, CLASSES, 0.1).item() == pytest.approx(torch.stack(each).mean().item())


@pytest.mark.parametrize("loss", [lambda u, t: triplet_loss(u, t, 0.2), lambda u, t: nt_xent_loss(u, t, 0.1)])
@pytest.mark.parametrize("targets", [[0, 1, 2], [0, 0, 0], [0]])
def test_batches_without_pairs_have_a_finite_gradient(loss: Any, targets: list[int]) -> None:
    unit = UNIT[: len(targets)].clone().requires_grad_()
    value = loss(unit, torch.tensor(targets))
    value.backward()
    assert value.isfinite() and unit.grad is not None and unit.grad.isfinite().all()


@pytest.mark.parametrize("outputs", [0, 3])
@pytest.mark.sweep(1)
def test_features_train_with_and_without_a_classifier(outputs: int, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = petl.wrap(timm.create_model("test_resnet", num_classes=outputs), "bn")
    head = [p.clone() for p in model.get_classifier().parameters()]  # type: ignore[operator]
    objective = petl.MetricLearning(loss="nt-xent")
    history = petl.fit(
        model,
        pairs(24),
        pairs(12, seed=1),
        epochs=2,
        lr=1e-2,
        batch_size=12,
        objective=objective,
        weight_decay=0,
        out=tmp_path / "a.safetensors",
    )
    metrics = petl.evaluate(model, pairs(12, seed=1))
    assert isinstance(metrics, petl.RetrievalMetrics) and history.monitor == "recall_at_1"
    header = petl.read(tmp_path / "a.safetensors")
    assert header["task"] == "metric" and header["labels"] is None
    assert all(map(torch.equal, head, model.get_classifier().parameters()))  # type: ignore[operator]
    torch.manual_seed(3)
    loaded = petl.load(tmp_path / "a.safetensors", timm.create_model("test_resnet", num_classes=outputs))
    best = petl.evaluate(loaded, pairs(12, seed=1))
    assert best.recall_at_1 == pytest.approx(history.best["recall_at_1"])


def test_what_cannot_be_learned_is_refused() -> None:
    with pytest.raises(petl.PetlError, match="only the classifier trains"):
        petl.fit(adapted("probe"), pairs(8), epochs=1, lr=1e-2, objective="metric")
    images = pairs(8).tensors[0]
    for targets in (torch.arange(8), torch.zeros(8, dtype=torch.long)):
        with pytest.raises(petl.DataError, match="two classes"):
            petl.fit(adapted(), TensorDataset(images, targets), epochs=1, lr=1e-2, objective="metric")
    for options in ({"loss": "cosine"}, {"margin": 0}, {"temperature": -1.0}):
        with pytest.raises(petl.PetlError, match=next(iter(options))):
            petl.MetricLearning(**options)  # type: ignore[arg-type]
