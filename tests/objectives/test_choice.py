"""Which objective is meant, which options it takes, and auxiliary outputs."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import petl
from petl.objectives.aux_outputs import aux_weight, loss_of_outputs
from petl.objectives.choice import TASKS_BY_NAME, task_for
from petl.objectives.measured import is_higher_better
from tests.support.data import pairs
from tests.support.training import adapted

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
IMAGES, CLASSES = pairs(8).tensors


def test_every_task_says_what_it_watches() -> None:
    for name, kind in TASKS_BY_NAME.items():
        assert kind.name == name == kind.task and kind.monitor in kind.metrics and kind.metrics[0] == "loss"
        assert isinstance(task_for(name), kind) and isinstance(task_for(kind), kind) and task_for(kind()) == kind()
        assert is_higher_better(kind.monitor)
    assert not is_higher_better("mean_absolute_error") and is_higher_better("mean_average_precision")


@pytest.mark.parametrize("targets", [CLASSES.float(), F.one_hot(CLASSES), F.one_hot(CLASSES).float()])
@pytest.mark.parametrize("call", [lambda m, d: petl.fit(m, d, epochs=1, lr=1e-3), petl.evaluate])
def test_without_a_doubt_or_not_at_all(targets: Tensor, call: Any) -> None:
    with pytest.raises(petl.DataError, match=r"expected class numbers.*objective='regression'") as caught:
        call(adapted(), TensorDataset(IMAGES, targets))
    assert "objective='multilabel'" in str(caught.value)


@pytest.mark.parametrize("wrong", ["multi-label", "Regression", 3, int, petl.DataError])
def test_what_is_no_objective(wrong: Any) -> None:
    with pytest.raises(petl.PetlError, match="objective="):
        petl.fit(adapted(), pairs(8), epochs=1, lr=1e-3, objective=wrong)


@pytest.mark.parametrize("objective", ["multilabel", "regression", "ordinal", "metric", nn.MSELoss()])
@pytest.mark.parametrize(
    "options",
    [{"label_smoothing": 0.1}, {"mixup": 0.2}, {"cutmix": 1.0}, {"class_weights": "balanced"}, {"monitor": "auc"}],
)
@pytest.mark.sweep(10)
def test_options_of_a_classification_are_refused_before_any_data_is_read(objective: Any, options: Any) -> None:
    with pytest.raises(petl.PetlError, match=next(iter(options))):
        petl.fit(adapted(), "nowhere", epochs=1, lr=1e-3, objective=objective, **options)


def test_monitors_are_those_of_the_objective() -> None:
    with pytest.raises(petl.PetlError, match="monitor='accuracy'.*mean_absolute_error"):
        petl.fit(adapted(), "nowhere", epochs=1, lr=1e-3, objective="regression", monitor="accuracy")
    with pytest.raises(petl.PetlError, match="monitor='acuracy'.*near names: accuracy"):
        petl.fit(adapted(), "nowhere", epochs=1, lr=1e-3, monitor="acuracy")
    history = petl.fit(
        adapted(),
        pairs(8),
        pairs(8),
        epochs=2,
        lr=1e-2,
        objective="ordinal",
        monitor="mean_absolute_error",
        keep="best",
    )
    assert history.best["mean_absolute_error"] == min(row["mean_absolute_error"] for row in history.rows)


class TwoScores(nn.Module):
    """Returns a second row of scores in training, as Inception does."""

    def __init__(self, kind: Any = tuple) -> None:
        super().__init__()
        self.main, self.aux, self.kind = nn.Linear(12, 3), nn.Linear(12, 3), kind

    def forward(self, images: Tensor) -> Any:
        flat = F.adaptive_avg_pool2d(images, 2).flatten(1)
        return self.kind((self.main(flat), self.aux(flat))) if self.training else self.main(flat)


@pytest.mark.parametrize("aux", ["first", "all", 0.4])
def test_auxiliary_scores_train_as_asked(aux: Any) -> None:
    torch.manual_seed(0)
    model, named = TwoScores(), namedtuple("Scores", "logits aux_logits")  # as torchvision has it
    with torch.no_grad():
        losses = [F.cross_entropy(scores, CLASSES).item() for scores in model(IMAGES)]
        both = model(IMAGES)
    wanted = losses[0] + {"first": 0, "all": 1, 0.4: 0.4}[aux] * losses[1]
    before = model.aux.weight.clone()
    history = petl.fit(
        model, TensorDataset(IMAGES, CLASSES), epochs=1, lr=1e-3, aux=aux, warmup_epochs=0, weight_decay=0
    )
    assert history.rows[0]["train_loss"] == pytest.approx(wanted, rel=1e-5)
    assert torch.equal(before, model.aux.weight) == (aux == "first")
    for output in (named(*both), {"logits": both[0], "aux": both[1]}):
        assert loss_of_outputs(output, aux, lambda s: F.cross_entropy(s, CLASSES)).item() == pytest.approx(wanted)


def test_auxiliary_scores_of_timms_distilled_models() -> None:
    model = timm.create_model(
        "deit_tiny_distilled_patch16_224", img_size=32, num_classes=1, depth=1, embed_dim=32, num_heads=2
    )
    model.set_distilled_training(True)
    petl.wrap(model, "bias")
    data = TensorDataset(torch.randn(4, 3, 32, 32), torch.rand(4))
    history = petl.fit(model, data, epochs=1, lr=1e-3, objective="regression", aux="all")
    assert len(history) == 1 and not any("not standardised" in note for note in history.notes)


def test_auxiliary_scores_that_are_not_there() -> None:
    with pytest.raises(petl.DataError, match="aux='all'.*leave aux= out"):
        petl.fit(adapted(), pairs(8), epochs=1, lr=1e-3, aux="all")
    for wrong in ("second", -1.0, True, None):
        with pytest.raises(petl.PetlError, match="aux="):
            aux_weight(wrong)
    with pytest.raises(petl.PetlError, match="aux="):
        petl.fit(adapted(), pairs(8), epochs=1, lr=1e-3, aux="all", objective=nn.CrossEntropyLoss())


def test_a_low_rank_change_of_the_classifier_alone_trains() -> None:
    model = petl.wrap(timm.create_model("test_resnet", num_classes=3), petl.LoRA(where="fc"), head=False)
    assert len(petl.fit(model, pairs(8), epochs=1, lr=1e-3)) == 1
