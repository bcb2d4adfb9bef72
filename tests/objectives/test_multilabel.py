"""Several labels for each image: figures against scikit-learn's, masks, thresholds, and what ends in the delta."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from sklearn import metrics as oracle
from torch import Tensor
from torch.utils.data import TensorDataset

import petl
from petl.objectives.multilabel_metrics import multilabel_metrics
from petl.objectives.ranked_labels import RankedLabels, best_thresholds
from tests.support.data import pairs
from tests.support.training import adapted

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def drawn(count: int = 60, labels: int = 3) -> tuple[Tensor, Tensor]:
    """Probabilities in coarse steps, so that some are equal, and targets that follow them loosely."""
    chance = torch.Generator().manual_seed(1)
    scores = (torch.rand(count, labels, generator=chance) * 20).round() / 20
    return scores, (scores + torch.randn(count, labels, generator=chance) * 0.4 > 0.6).float()


def with_labels(count: int = 24, seed: int = 0) -> TensorDataset:
    """Images of three classes as images with three labels, of which the last also stands for the second."""
    images, classes = pairs(count, seed).tensors
    targets = torch.nn.functional.one_hot(classes, 3).float()
    targets[:, 2] += targets[:, 1]
    return TensorDataset(images, targets)


def test_figures_are_scikit_learns() -> None:
    scores, truth = drawn()
    found = multilabel_metrics(torch.rand(60), scores, truth, list("abc"), torch.full((3,), 0.5), chosen_here=False)
    called = (scores >= 0.5).numpy()
    assert found.average_precision == pytest.approx(oracle.average_precision_score(truth, scores, average="macro"))
    assert found.micro_average_precision == pytest.approx(
        oracle.average_precision_score(truth, scores, average="micro")
    )
    assert found.auroc == pytest.approx(oracle.roc_auc_score(truth, scores, average="macro"))
    assert found.f1 == pytest.approx(oracle.f1_score(truth, called, average="macro"))
    assert found.micro_f1 == pytest.approx(oracle.f1_score(truth, called, average="micro"))
    assert [m.average_precision for m in found.labels] == pytest.approx(
        oracle.average_precision_score(truth, scores, average=None)
    )
    assert [m.auroc for m in found.labels] == pytest.approx(oracle.roc_auc_score(truth, scores, average=None))
    assert found.standard_errors.keys() == found.scalars.keys()
    assert found.baseline["average_precision"] == pytest.approx(truth.mean(0).mean().item())
    assert all(label in repr(found) for label in ("a ", "b ", "c ", "(n=60)", "baseline"))


def test_weights_are_as_if_images_were_repeated() -> None:
    scores, truth = drawn()
    often = torch.randint(4, (60,), generator=torch.Generator().manual_seed(2))
    found = RankedLabels(scores, truth).curves(often.double())
    repeated = [part.repeat_interleave(often, dim=0).numpy() for part in (truth, scores)]
    assert found[0].tolist() == pytest.approx(oracle.average_precision_score(*repeated, average=None))
    assert found[1].tolist() == pytest.approx(oracle.roc_auc_score(*repeated, average=None))


def test_what_is_not_known_counts_nowhere() -> None:
    scores, truth = drawn()
    hidden = truth.clone()
    hidden[:20, 0] = math.nan
    found = multilabel_metrics(torch.rand(60), scores, hidden, list("abc"), torch.full((3,), 0.5), chosen_here=False)
    assert found.labels[0].images == 40
    assert found.labels[0].auroc == pytest.approx(oracle.roc_auc_score(truth[20:, 0], scores[20:, 0]))
    assert found.labels[0].f1 == pytest.approx(oracle.f1_score(truth[20:, 0], scores[20:, 0] >= 0.5))
    never = truth.clone()
    never[:, 1] = 0
    found = multilabel_metrics(torch.rand(60), scores, never, list("abc"), torch.full((3,), 0.5), chosen_here=False)
    assert math.isnan(found.labels[1].auroc) and found.auroc == pytest.approx(
        (found.labels[0].auroc + found.labels[2].auroc) / 2
    )


@pytest.mark.deep
def test_thresholds_have_the_best_f1() -> None:
    scores, truth = drawn()
    chosen = best_thresholds(scores, truth)
    for label in range(3):
        ways = [oracle.f1_score(truth[:, label], scores[:, label] >= at) for at in np.linspace(0.001, 0.999, 400)]
        assert oracle.f1_score(truth[:, label], scores[:, label] >= chosen[label]) == pytest.approx(max(ways))
    assert best_thresholds(scores, torch.zeros_like(truth)).tolist() == [0.5, 0.5, 0.5]


def test_a_training_writes_task_and_thresholds_of_its_best_epoch(tmp_path: Path) -> None:
    model, train, val = adapted(), with_labels(), with_labels(12, seed=1)
    train.tensors[1][0, 0] = math.nan
    objective = petl.Multilabel(pos_weight="balanced")
    history = petl.fit(
        model,
        train,
        val,
        epochs=3,
        lr=1e-2,
        batch_size=8,
        objective=objective,
        keep="best",
        out=tmp_path / "a.safetensors",
    )
    header = petl.read(tmp_path / "a.safetensors")
    assert history.monitor == "average_precision" and header["task"] == "multilabel"
    assert header["thresholds"] == history.best["thresholds"] == petl.record(model).thresholds  # type: ignore[union-attr]
    torch.manual_seed(3)
    loaded = petl.load(tmp_path / "a.safetensors", timm.create_model("test_resnet"))
    metrics: Any = petl.evaluate(loaded, val)
    assert isinstance(metrics, petl.MultilabelMetrics) and metrics.thresholds == header["thresholds"]
    assert metrics.average_precision == pytest.approx(history.best["average_precision"])
    assert not metrics.chosen_here and "optimistic" in history.notes[-1]


def test_positive_images_weigh_as_they_are_rare() -> None:
    data = with_labels(24)
    data.tensors[1][0, 0] = math.nan
    weighed = petl.fit(
        adapted("probe"), data, epochs=1, lr=1e-9, batch_size=24, objective=petl.Multilabel(pos_weight="balanced")
    ).rows[0]["train_loss"]
    model, targets = adapted("probe").eval(), data.tensors[1]
    with torch.no_grad():
        scores = model(data.tensors[0])
    weight = (targets == 0).sum(0) / (targets == 1).sum(0)
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        scores, targets.nan_to_num(0), pos_weight=weight, reduction="none"
    )
    assert weighed == pytest.approx(each[~targets.isnan()].mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t[:, :2], r"\[N, 3\]"),
        (lambda t: t * 2, "expected 1 or 0"),
        (lambda t: torch.zeros_like(t), "no label differs"),
        (lambda t: t * torch.tensor([1.0, 0.0, 1.0]), "has the label 1.*absent='keep'"),
        (lambda t: t.argmax(1), "class numbers.*'classification'"),
    ],
)
def test_targets_that_cannot_be_are_refused_before_training(change: Any, words: str) -> None:
    images, targets = with_labels().tensors
    model = adapted("probe")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(petl.DataError, match=words):
        petl.fit(model, TensorDataset(images, change(targets)), epochs=1, lr=1e-2, objective="multilabel")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_an_absent_label_may_stay() -> None:
    images, targets = with_labels(8).tensors
    kept = TensorDataset(images, targets * torch.tensor([1.0, 0.0, 1.0]))
    history = petl.fit(adapted("probe"), kept, epochs=1, lr=1e-3, objective=petl.Multilabel(absent="keep"))
    assert len(history) == 1


@pytest.mark.deep
def test_cached_features_train_as_the_whole_model_does(tmp_path: Path) -> None:
    train, val = with_labels(), with_labels(12, seed=1)
    train.tensors[1][3, 1] = math.nan
    options: dict[str, Any] = {"epochs": 2, "lr": 1e-2, "batch_size": 8, "objective": "multilabel"}
    whole = petl.fit(adapted("probe"), train, val, views=0, **options)
    cached = petl.fit(adapted("probe"), train, val, cache=tmp_path, **options)
    again = petl.fit(adapted("probe"), train, val, cache=tmp_path, **options)
    for other in (cached, again):
        assert "computed once" in other.features
        for one, two in zip(whole.rows, other.rows, strict=True):
            assert all(
                two[name] == pytest.approx(one[name], rel=1e-4) for name in ("train_loss", "loss", "average_precision")
            )


@pytest.mark.parametrize(
    "options",
    [{"pos_weight": "auto"}, {"pos_weight": [1.0, -1.0]}, {"thresholds": 1.5}, {"thresholds": "best"}, {"absent": 1}],
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(petl.PetlError, match=next(iter(options))):
        petl.Multilabel(**options)


def test_given_thresholds_stay_without_validation(tmp_path: Path) -> None:
    objective = petl.Multilabel(thresholds=[0.25, 0.5, 0.75])
    petl.fit(adapted("probe"), with_labels(8), epochs=1, lr=1e-3, objective=objective, out=tmp_path / "a.safetensors")
    model = adapted("probe")
    petl.fit(model, with_labels(8), epochs=1, lr=1e-3, objective=objective)
    petl.save(model, tmp_path / "b.safetensors")
    for name in ("a", "b"):
        assert petl.read(tmp_path / f"{name}.safetensors")["thresholds"] == [0.25, 0.5, 0.75]
