"""The last layer of a regression in closed form: alone by `petl.Probe`, and as the start of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

import petl
from petl.errors import StateError
from petl.heads.number_head import number_head
from tests.support.tables_of_targets import model_of

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def lights(count: int, seed: int = 0) -> TensorDataset:
    """Noise whose brightness and redness are the targets, in units far from 0 and 1; one isn't known."""
    chance = torch.Generator().manual_seed(seed)
    light = torch.rand(count, 2, generator=chance)
    images = torch.randn(count, 3, 32, 32, generator=chance) * 0.2 + light[:, :1, None, None]
    images[:, 0] += light[:, 1, None, None]
    targets = torch.tensor([20.0, 3000.0]) + light * torch.tensor([60.0, 10.0])
    targets[0, 1] = torch.nan
    return TensorDataset(images, targets)


TRAIN, VAL = lights(16), lights(8, seed=1)


def quiet(model: Any, **options: Any) -> Any:
    return petl.fit(model, TRAIN, VAL, objective=options.pop("objective", "regression"), progress=False, **options)


@pytest.mark.parametrize("objective", ["regression", petl.Regression(standardize=False)])
@pytest.mark.sweep(1)
def test_a_probe_of_numbers_is_ridge_in_their_units(objective: Any, tmp_path: Path) -> None:
    model, out = model_of(2, petl.Probe()), tmp_path / "delta.safetensors"
    history = quiet(model, objective=objective, out=out)
    x = petl.features(model, TRAIN, progress=False).x
    head = number_head(x, TRAIN.tensors[1])
    torch.testing.assert_close(model.fc.weight.double(), head.weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model.fc.bias.double(), head.bias, rtol=1e-4, atol=1e-2)
    (row,) = history.rows
    errors = head.mean_absolute_errors(TRAIN.tensors[1])
    assert row["left_out_mean_absolute_error"] == pytest.approx(float(errors.mean()), rel=1e-4) and row["lr"] == 0
    assert "leave-one-out mean absolute error" in history.head and row["r2"] > 0.5
    targets = TRAIN.tensors[1]
    spread = (targets - targets.nanmean(0)).square().nanmean(0).sqrt()
    deviation = spread if objective == "regression" else torch.ones(2)
    gaps = ((model.eval()(TRAIN.tensors[0]) - TRAIN.tensors[1]) / deviation).square().nanmean()
    assert row["train_loss"] == pytest.approx(gaps.item(), rel=0.02, abs=1e-5)
    loaded = petl.load(out, petl.unwrap(model_of(1)))
    assert petl.evaluate(loaded, VAL, progress=False).row["loss"] == pytest.approx(row["loss"], rel=1e-5)
    plain = petl.merge(loaded)
    torch.testing.assert_close(plain.eval()(VAL.tensors[0]), model(VAL.tensors[0]), rtol=1e-5, atol=1e-2)


def test_a_second_fit_finds_the_same() -> None:
    """The layer is in the targets' units then, and not in standard deviations."""
    model = model_of(2, petl.Probe())
    first = quiet(model)
    again = quiet(model)
    assert again.rows[0]["loss"] == pytest.approx(first.rows[0]["loss"], rel=1e-4)
    resumed = quiet(model, start="probe", epochs=1, lr=1e-12)
    assert resumed.rows[0]["loss"] == pytest.approx(first.rows[0]["loss"], rel=1e-3)


def test_a_training_starts_from_it() -> None:
    started, cold = model_of(2, ["norm", "probe"]), model_of(2, ["norm", "probe"])
    history = quiet(started, start="probe", epochs=1, lr=1e-9)
    assert "started from a regression in closed form (ridge)" in history.head
    assert history.rows[0]["r2"] > 0.5 > quiet(cold, epochs=1, lr=1e-9).rows[0]["r2"]


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ("multilabel", "the objective is multilabel"),
    ],
)
def test_other_objectives_train_by_gradient_and_say_why(objective: Any, said: str) -> None:
    targets = torch.eye(2)[torch.arange(16) % 2]
    data = TensorDataset(TRAIN.tensors[0], targets)

    def run(solver: str, **options: Any) -> Any:
        return petl.fit(
            model_of(2, petl.Probe(solver=solver)), data, data, objective=objective, progress=False, **options
        )

    history = run("auto", patience=1)
    assert said in history.head and "by gradient" in history.head and len(history) > 1
    with pytest.raises(StateError, match=r"solver='sgd'\) trains by gradient"):
        run("ridge")


@pytest.mark.parametrize("options", [{"loss": "huber"}, {"loss": "quantile", "quantiles": (0.5,)}])
def test_other_losses_of_numbers_have_no_closed_form(options: Any) -> None:
    with pytest.raises(StateError, match=f"lowers squared errors, and the loss is '{options['loss']}'"):
        quiet(model_of(2, petl.Probe(solver="ridge")), objective=petl.Regression(**options))


@pytest.mark.parametrize("solver", ["lda", "prototypes"])
def test_solvers_of_classes_are_refused(solver: str) -> None:
    with pytest.raises(StateError, match=f"{solver} is for classes, and the targets are numbers"):
        quiet(model_of(2, petl.Probe(solver=solver)))


def test_blocks_are_for_classes() -> None:
    torch.manual_seed(0)
    probe = petl.Probe(solver="ridge", layers="all")
    with pytest.raises(StateError, match="layers='all' is for classes"):
        quiet(petl.wrap(timm.create_model("test_resnet"), probe, num_classes=2))


def of_batch(outputs: Tensor, targets: Tensor, batch: Any) -> Tensor:
    return (outputs - targets.nan_to_num()).square().mean() + 0 * batch[0].mean()


@pytest.mark.deep
@pytest.mark.parametrize(
    ("how", "objective"),
    [
        ({"lr": "find", "epochs": 1}, "regression"),
        ({"minutes": 0.001}, "regression"),
        ({"layer_decay": "gradients", "epochs": 1}, "regression"),
        ({"layer_decay": "gradients", "epochs": 1}, of_batch),
    ],
)
def test_what_chooses_rates_and_lengths_knows_any_loss(how: Any, objective: Any) -> None:
    history = quiet(model_of(2), objective=objective, **how)
    assert len(history) >= 1 and all(torch.isfinite(torch.tensor(row["train_loss"])) for row in history.rows)
