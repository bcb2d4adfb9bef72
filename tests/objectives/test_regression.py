"""Numbers for each image: figures against scikit-learn's, standardised targets, and a model that answers in years."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from scipy.stats import spearmanr
from sklearn import metrics as oracle
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import petl
from petl.objectives.regression_metrics import regression_metrics
from petl.objectives.standardisation import find_standardisation
from tests.support.compare import equal, state
from tests.support.data import SIZE
from tests.support.training import without_time

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
QUANTILES = (0.1, 0.5, 0.9)


def ages(count: int = 32, seed: int = 0, outputs: int = 0) -> TensorDataset:
    """Images whose brightness is an age from 20 to 80; with ``outputs``, vectors in different units."""
    chance = torch.Generator().manual_seed(seed)
    years = 20 + 60 * torch.rand(count, generator=chance)
    images = torch.randn(count, 3, SIZE, SIZE, generator=chance) * 0.3 + ((years - 50) / 20)[:, None, None, None]
    return TensorDataset(images, torch.stack([years * 1000**k for k in range(outputs)], 1) if outputs else years)


def regressor(outputs: int = 1, methods: Any = "bn", name: str = "test_resnet") -> nn.Module:
    torch.manual_seed(3)
    return petl.wrap(timm.create_model(name), methods, num_classes=outputs)


def answers(model: nn.Module, data: TensorDataset) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(data.tensors[0])


def test_figures_are_scikit_learns() -> None:
    chance = torch.Generator().manual_seed(0)
    truth = torch.randn(50, 2, generator=chance).mul(7).round()
    guess = truth + torch.randn(50, 2, generator=chance).mul(3).round()
    found = regression_metrics(torch.rand(50), guess, truth, ["a", "b"], ["kg", "cm"])
    assert found.mean_absolute_error == pytest.approx(oracle.mean_absolute_error(truth, guess))
    assert found.r2 == pytest.approx(oracle.r2_score(truth, guess))
    for k, one in enumerate(found.outputs):
        assert one.root_mean_squared_error == pytest.approx(oracle.mean_squared_error(truth[:, k], guess[:, k]) ** 0.5)
        assert one.spearman == pytest.approx(spearmanr(truth[:, k], guess[:, k]).statistic)
    assert found.standard_errors.keys() == found.scalars.keys() and "a (kg)" in repr(found)
    assert found.baseline["root_mean_squared_error"] == pytest.approx(np.std(truth.numpy(), axis=0).mean())


def test_numbers_that_are_not_known_count_nowhere() -> None:
    truth, guess = (
        torch.tensor([[1.0, math.nan], [2.0, 5.0], [4.0, 7.0]]),
        torch.tensor([[1.0, 9.0], [3.0, 5.0], [4.0, 8.0]]),
    )
    found = regression_metrics(torch.zeros(3), guess, truth, ["a", "b"])
    assert [one.images for one in found.outputs] == [3, 2]
    assert found.outputs[1].mean_absolute_error == 0.5 and found.outputs[0].mean_absolute_error == pytest.approx(1 / 3)


@pytest.mark.deep
def test_a_trained_model_answers_in_years(tmp_path: Path) -> None:
    model, train, val, rows = regressor(), ages(), ages(16, seed=1), []
    history = petl.fit(
        model,
        train,
        val,
        epochs=5,
        lr=1e-2,
        batch_size=8,
        objective=petl.Regression(units="years"),
        keep="best",
        out=tmp_path / "age.safetensors",
        on_epoch=rows.append,
    )
    assert (
        history.monitor == "r2" and history.best["r2"] > 0.3 and not any("standard" in note for note in history.notes)
    )
    assert history.rows[0]["train_loss"] < 3  # of standardised targets
    metrics = petl.evaluate(model, val)
    assert isinstance(metrics, petl.RegressionMetrics)
    gaps = answers(model, val)[:, 0] - val.tensors[1]
    assert metrics.mean_absolute_error == pytest.approx(gaps.abs().mean().item(), rel=1e-5)
    assert metrics.r2 == pytest.approx(history.best["r2"], rel=1e-4)
    header = petl.read(tmp_path / "age.safetensors")
    assert (header["task"], header["units"], header["labels"]) == ("regression", "years", None)
    torch.manual_seed(3)
    loaded = petl.load(tmp_path / "age.safetensors", timm.create_model("test_resnet"))
    assert torch.equal(answers(loaded, val), answers(model, val)) and petl.evaluate(loaded, val).r2 == metrics.r2
    assert torch.equal(answers(petl.merge(loaded), val), answers(model, val))


@pytest.mark.deep
def test_a_trained_model_trains_on_from_where_it_is() -> None:
    model, train, val = regressor(), ages(), ages(16, seed=1)
    petl.fit(model, train, val, epochs=4, lr=1e-2, batch_size=8, objective="regression")
    before = petl.evaluate(model, val)
    history = petl.fit(model, train, val, epochs=1, lr=1e-8, batch_size=8)  # the task is in the record
    assert history.rows[0]["mean_absolute_error"] == pytest.approx(before.mean_absolute_error, rel=0.1)


@pytest.mark.deep
def test_an_interrupted_training_goes_on_bit_by_bit(tmp_path: Path) -> None:
    options: dict[str, Any] = {"lr": 1e-2, "batch_size": 8, "objective": "regression", "ema": 0.5}
    train, val = ages(16), ages(8, seed=1)
    whole = regressor()
    expected = petl.fit(whole, train, val, epochs=3, **options)

    def interrupt(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    broken = regressor()
    with pytest.raises(KeyboardInterrupt):
        petl.fit(broken, train, val, epochs=3, checkpoint=tmp_path, on_epoch=interrupt, **options)
    assert 20 < answers(broken, val).mean() < 80  # in years, too
    resumed = regressor()
    history = petl.fit(resumed, train, val, epochs=3, checkpoint=tmp_path, resume=True, **options)
    assert without_time(history) == without_time(expected) and equal(state(resumed), state(whole))


def test_measuring_leaves_the_values_that_train() -> None:
    """Without validation the training is the same, bit by bit."""
    train = ages(16)
    models = [regressor(), regressor()]
    petl.fit(models[0], train, epochs=2, lr=1e-2, batch_size=8, objective="regression")
    petl.fit(models[1], train, ages(8, seed=1), epochs=2, lr=1e-2, batch_size=8, objective="regression")
    assert equal(state(models[0]), state(models[1]))


def test_cached_features_train_as_the_whole_model_does() -> None:
    train, val = ages(16), ages(8, seed=1)
    options: dict[str, Any] = {"epochs": 2, "lr": 1e-2, "batch_size": 8, "objective": "regression"}
    whole = petl.fit(regressor(methods="probe"), train, val, views=0, **options)
    cached = petl.fit(regressor(methods="probe"), train, val, **options)
    assert "computed once" in cached.features
    assert cached.best["mean_absolute_error"] == pytest.approx(whole.best["mean_absolute_error"], rel=1e-4)


@pytest.mark.deep
def test_several_numbers_have_their_own_scales() -> None:
    model, train, val = regressor(2), ages(outputs=2), ages(16, seed=1, outputs=2)
    train.tensors[1][0, 1] = math.nan
    petl.fit(model, train, val, epochs=4, lr=1e-2, batch_size=8, objective="regression", labels=["age", "days"])
    metrics: Any = petl.evaluate(model, val)
    assert [one.label for one in metrics.outputs] == ["age", "days"] and all(one.r2 > 0 for one in metrics.outputs)


@pytest.mark.deep
def test_a_quantile_regression_knows_its_interval(tmp_path: Path) -> None:
    model, train, val = regressor(3), ages(), ages(16, seed=1)
    objective = petl.Regression(loss="quantile", quantiles=QUANTILES)
    petl.fit(
        model,
        train,
        epochs=4,
        lr=1e-2,
        batch_size=8,
        objective=objective,
        labels=["age"],
        out=tmp_path / "q.safetensors",
    )
    header = petl.read(tmp_path / "q.safetensors")
    assert header["labels"] == ["age q0.1", "age q0.5", "age q0.9"] and header["quantiles"] == [*QUANTILES]
    metrics: Any = petl.evaluate(model, val)
    spread, truth = answers(model, val), val.tensors[1]
    assert metrics.coverage == pytest.approx(
        ((truth >= spread.amin(1)) & (truth <= spread.amax(1))).float().mean().item()
    )
    wanted = np.mean([oracle.mean_pinball_loss(truth, spread[:, k], alpha=q) for k, q in enumerate(QUANTILES)])
    assert metrics.loss == pytest.approx(wanted, rel=1e-5) and [one.label for one in metrics.outputs] == ["age"]


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_convnext"])
def test_the_fold_is_exact_on_other_heads(name: str) -> None:
    model, (images, targets) = timm.create_model(name, num_classes=2), ages(4, outputs=2).tensors
    images = nn.functional.interpolate(images, 160)
    mean, deviation = torch.tensor([40.0, -3.0]).double(), torch.tensor([12.0, 1e-4]).double()
    found: Any = find_standardisation(model, mean, deviation, images, targets)
    with torch.no_grad():
        model.eval()
        before = model(images)
        with found.folded():
            assert torch.allclose(model(images).double(), before * deviation + mean, rtol=1e-5, atol=1e-5)
        assert torch.equal(model(images), before)


def test_where_no_layer_can_hold_it_the_history_says_so() -> None:
    class Squashed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = nn.Conv2d(3, 4, 8, 8), nn.Linear(4, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.fc(self.body(images).mean((2, 3)))) * 100

    torch.manual_seed(0)
    history = petl.fit(Squashed(), ages(8), epochs=1, lr=1e-4, objective="regression")
    assert "not standardised" in history.notes[0] and "not standardised" in repr(history)
    plain = petl.fit(regressor(), ages(8), epochs=1, lr=1e-6, objective=petl.Regression(standardize=False))
    assert plain.notes == [] and plain.rows[0]["train_loss"] > 400  # squares of years
    without = regressor(methods="probe")
    without.get_classifier().bias = None  # type: ignore[operator]
    history = petl.fit(without, ages(8), epochs=1, lr=1e-6, objective="regression")
    assert "no bias" in history.notes[0]


class Opaque(Dataset):
    """Lists no targets, and has whole numbers."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        image, age = self.data[index]
        return image, int(age)


@pytest.mark.deep
def test_any_data_gives_the_same_standardisation() -> None:
    whole = [Opaque(ages(16)), TensorDataset(ages(16).tensors[0], ages(16).tensors[1].long())]
    ways: list[Any] = [*whole, [whole[0][i] for i in range(16)], DataLoader(whole[0], 8)]
    losses = [
        petl.fit(regressor(), data, epochs=1, lr=1e-9, batch_size=16, objective="regression").rows[0]["train_loss"]
        for data in ways
    ]
    assert losses[:3] == pytest.approx([losses[0]] * 3, rel=1e-5) and losses[3] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t[:, None].repeat(1, 2), "num_classes=2"),
        (lambda t: torch.full_like(t, 35), "all targets of the training images are 35"),
        (lambda t: t * math.nan, "NaN for every"),
        (lambda t: t / 0, "infinite"),
    ],
)
def test_targets_that_cannot_be_are_refused_before_training(change: Any, words: str) -> None:
    images, targets = ages(8).tensors
    with pytest.raises(petl.DataError, match=words):
        petl.fit(regressor(), TensorDataset(images, change(targets)), epochs=1, lr=1e-2, objective="regression")


@pytest.mark.parametrize(
    "options",
    [{"loss": "mae"}, {"quantiles": (0.5,)}, {"loss": "quantile"}, {"delta": 0.0}, {"units": 3}, {"units": ["a", "b"]}],
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(petl.PetlError, match=next(iter(options))):
        petl.fit(regressor(), ages(8), epochs=1, lr=1e-2, objective=petl.Regression(**options))


def test_huber_is_less_moved_by_an_outlier() -> None:
    data = ages(16)
    data.tensors[1][0] = 1e5
    rows = [
        petl.fit(regressor(), data, epochs=1, lr=1e-9, batch_size=16, objective=petl.Regression(loss=loss)).rows[0]
        for loss in ("mse", "huber")
    ]
    assert rows[1]["train_loss"] < rows[0]["train_loss"] / 2


def test_a_loop_of_ones_own_says_its_task(tmp_path: Path) -> None:
    model = regressor()
    petl.save(model, tmp_path / "a.safetensors", task="regression", units="years")
    header = petl.read(tmp_path / "a.safetensors")
    assert (header["task"], header["units"]) == ("regression", "years")
    for options in (
        {"units": "years"},
        {"task": "multilabel", "units": "years"},
        {"task": "regression", "units": ["a", ""]},
    ):
        with pytest.raises(petl.DeltaError, match="units"):
            petl.save(regressor(2), tmp_path / "b.safetensors", **options)  # type: ignore[arg-type]
    with pytest.raises(petl.DeltaError, match="thresholds"):
        petl.save(regressor(2), tmp_path / "b.safetensors", task="multilabel", thresholds=[0.5, 0.5, 0.5])
    petl.save(regressor(2), tmp_path / "b.safetensors", task="multilabel", thresholds=[0.5, 0.25])
    assert petl.read(tmp_path / "b.safetensors")["thresholds"] == [0.5, 0.25]


def test_figures_that_are_not_defined_are_none_in_a_delta(tmp_path: Path) -> None:
    constant = TensorDataset(ages(4).tensors[0], torch.full((4,), 30.0))
    history = petl.fit(
        regressor(), ages(8), constant, epochs=1, lr=1e-4, objective="regression", out=tmp_path / "a.safetensors"
    )
    assert math.isnan(history.rows[0]["r2"])
    header = petl.read(tmp_path / "a.safetensors")
    assert header["results"]["r2"] is None and header["results"]["mean_absolute_error"] > 0


def test_numbers_that_are_not_known_are_counted_in_the_history() -> None:
    data = ages(8)
    data.tensors[1][:3] = math.nan
    history = petl.fit(regressor(), data, data, epochs=1, lr=1e-4, objective="regression")
    assert "3 of 8 training targets" in history.notes[0]
    with pytest.raises(petl.DataError, match="target that is known"):
        petl.evaluate(regressor(), TensorDataset(data.tensors[0][:3], data.tensors[1][:3]), objective="regression")


@pytest.mark.parametrize("objective", ["regression", "multilabel"])
def test_class_folders_have_no_numbers(objective: str, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / name / "1.png")
    with pytest.raises(petl.DataError, match="class numbers of folders"):
        petl.fit(regressor(), tmp_path, epochs=1, lr=1e-4, objective=objective)
