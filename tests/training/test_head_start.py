"""The classifier in closed form: alone by `petl.Probe`, and as the start of a training."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import petl
from petl.errors import PetlError, StateError
from petl.heads.closed_form import fitted_head
from petl.training import head_starters
from petl.training.evaluation import evaluate
from petl.training.fit import fit
from tests.support.compare import state
from tests.support.image_files import picture
from tests.support.training import adapted, without_time
from tests.support.zoo import make

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
CLASSES, SIZE = 3, 64


def coloured(count: int, seed: int = 0) -> TensorDataset:
    """Noise images with a tint by class, which an untrained net tells apart."""
    chance = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % CLASSES
    tint = torch.eye(3)[y][:, :, None, None]
    return TensorDataset(torch.randn(count, 3, SIZE, SIZE, generator=chance) + 0.6 * tint, y)


TRAIN, VAL = coloured(30), coloured(24, seed=1)


def quiet(model: nn.Module, train: Any = TRAIN, val: Any = VAL, **options: Any) -> Any:
    return fit(model, train, val, progress=False, **options)


def probe(name: str = "test_resnet", **options: Any) -> nn.Module:
    return adapted(petl.Probe(**options), name)


def head_inputs(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval().forward_head(model.forward_features(images), pre_logits=True)  # type: ignore[operator]  # timm's


@pytest.mark.sweep(2)
@pytest.mark.parametrize("solver", ["auto", "ridge", "lda", "prototypes"])
def test_a_probe_is_computed_saved_loaded_and_merged(solver: str, tmp_path: Path) -> None:
    model, out = probe(solver=solver), tmp_path / "delta.safetensors"
    history = quiet(model, out=out)
    x, y = TRAIN.tensors
    head = fitted_head(head_inputs(model, x), y, CLASSES, solver)
    torch.testing.assert_close(model.get_parameter("fc.weight").double(), head.weight, rtol=1e-4, atol=1e-4)
    (row,) = history.rows
    assert row["left_out_accuracy"] == pytest.approx(head.accuracy(y)) and row["lr"] == 0
    assert f"({head.kind})" in history.head and f"{head.accuracy(y):.3f} +- {head.error(y):.3f} on 30" in history.head
    assert history.head in repr(history) and "computed once" in history.features
    assert row["accuracy"] == evaluate(model, VAL, progress=False).accuracy
    with torch.no_grad():
        assert row["train_loss"] == pytest.approx(float(F.cross_entropy(model(x), y)), abs=1e-4)
    torch.manual_seed(3)  # as `adapted` builds it
    loaded = petl.load(out, timm.create_model("test_resnet"))
    assert torch.equal(loaded.eval()(x), model.eval()(x)) and petl.read(out)["results"]["epoch"] == 1
    assert torch.equal(petl.merge(loaded)(x), model(x))


def test_equal_calls_give_equal_bits_whatever_the_batch_order_and_augmentation_seed() -> None:
    models = [probe() for _ in range(3)]
    for model, options in zip(models, ({}, {}, {"seed": 7}), strict=True):
        quiet(model, **options)
    assert torch.equal(state(models[0])["fc.weight"], state(models[1])["fc.weight"])
    assert torch.equal(state(models[0])["fc.weight"], state(models[2])["fc.weight"])


@pytest.mark.sweep(2)
@pytest.mark.parametrize("given", [{"lr": 1e-2}, {"epochs": 2}, {"label_smoothing": 0.1}, {"mixup": 0.2}, {"views": 2}])
def test_settings_of_a_gradient_train_by_gradient_and_contradict_a_solver(given: dict[str, Any]) -> None:
    model = probe()
    history = quiet(model, **{"epochs": 1, **given})
    assert not history.head and all(row["lr"] > 0 for row in history.rows)
    strict = probe(solver="lda")
    before = state(strict)
    with pytest.raises(PetlError, match=rf"solver='lda'.*{next(iter(given))}.*solver='sgd'"):
        quiet(strict, **given)
    assert all(torch.equal(value, before[key]) for key, value in state(strict).items())


def test_sgd_always_trains_by_gradient() -> None:
    history = quiet(probe(solver="sgd"), epochs=2)
    assert len(history.rows) == 2 and not history.head


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    ("name", "methods"),
    [("test_resnet", "lora"), ("test_resnet", "full"), ("test_vit", ["norm", "bias"]), ("test_vit", "partial")],
    ids=str,
)
def test_a_start_has_the_accuracy_and_loss_of_the_probe_at_step_0(name: str, methods: Any) -> None:
    solved = probe(name)
    expected = quiet(solved).rows[0]
    model = adapted(methods, name)
    history = quiet(model, epochs=1, lr=1e-30, start="probe", weight_decay=0.0)
    assert history.rows[0]["accuracy"] == expected["accuracy"]
    assert history.rows[0]["loss"] == pytest.approx(expected["loss"], abs=1e-4)
    assert history.head.startswith("started from a classifier in closed form")


@pytest.mark.deep
def test_a_solver_beside_other_methods_gives_the_start() -> None:
    model = adapted(["norm", petl.Probe(solver="ridge")])
    history = quiet(model, epochs=1, lr=1e-3)
    assert "closed form (ridge)" in history.head and history.rows[0]["lr"] > 0
    assert not quiet(adapted(["norm", "probe"]), epochs=1, lr=1e-3).head  # "auto" with a rate is as before
    assert quiet(adapted(["norm", "probe"]), epochs=1).head.startswith("started")


@pytest.mark.deep
def test_augmented_folders_are_seen_as_at_evaluation(tmp_path: Path) -> None:
    folder = tmp_path / "pets"
    for number in range(12):
        place = folder / "train" / f"class{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        picture(number, 80, "RGB").save(place / f"{number}.png")
    first, second = (adapted(petl.Probe()) for _ in range(2))
    pipeline = petl.data.pipeline(first)
    still = petl.data.dataset(folder, pipeline, split="train", training=False)
    quiet(first, folder, None)
    quiet(second, still, None)
    torch.testing.assert_close(state(first)["fc.weight"], state(second)["fc.weight"], rtol=1e-4, atol=1e-4)
    third = adapted("probe")
    history = quiet(third, folder, None, epochs=1, lr=1e-30, start="probe", views=2)
    assert "started" in history.head
    torch.testing.assert_close(state(third)["fc.weight"], state(first)["fc.weight"], rtol=1e-4, atol=1e-4)


@pytest.mark.deep
def test_a_resumed_run_does_not_compute_it_again(tmp_path: Path) -> None:
    whole = adapted("lora")
    history = quiet(whole, epochs=2, lr=1e-2, start="probe", checkpoint=tmp_path / "a")

    def stop(row: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    options: dict[str, Any] = {"epochs": 2, "lr": 1e-2, "start": "probe", "checkpoint": tmp_path / "b"}
    broken = adapted("lora")
    with pytest.raises(KeyboardInterrupt):
        quiet(broken, **options, on_epoch=stop)
    resumed = adapted("lora")
    again = quiet(resumed, **options, resume=True)
    assert without_time(again) == without_time(history) and again.head == history.head
    assert all(torch.equal(value, state(whole)[key]) for key, value in state(resumed).items())
    model = probe()
    first = quiet(model, checkpoint=tmp_path / "c")
    other = probe()
    second = quiet(other, checkpoint=tmp_path / "c", resume=True)
    assert without_time(first) == without_time(second) and first.head == second.head
    assert torch.equal(state(model)["fc.weight"], state(other)["fc.weight"])


class Scaled(nn.Module):
    """A net whose scores are not what its linear layer returns."""

    def __init__(self, bias: bool = True, head: Any = None) -> None:
        super().__init__()
        self.body, self.fc = nn.Conv2d(3, 8, 3), head or nn.Linear(8, CLASSES, bias=bias)
        self.power = 1.0

    def forward(self, x: Tensor) -> Tensor:
        scores = self.fc(torch.relu(self.body(x)).mean((2, 3)))
        return scores.tanh() if self.power == 2 else scores


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("tanh", "something is computed behind"),
        ("no bias", "no plain linear layer with a weight and a bias"),
        ("weight norm", "no plain linear layer"),
        ("hidden layer", ""),
        ("zeros", ""),
    ],
)
@pytest.mark.sweep(1)
@pytest.mark.deep
def test_other_classifiers_are_written_exactly_or_train_by_gradient(what: str, words: str) -> None:
    heads = {
        "weight norm": nn.utils.parametrizations.weight_norm(nn.Linear(8, CLASSES)),
        "hidden layer": nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, CLASSES)),
    }
    torch.manual_seed(0)
    net = Scaled(bias=what != "no bias", head=heads.get(what))
    net.power = 2.0 if what == "tanh" else 1.0
    if what == "zeros":
        nn.init.zeros_(net.fc.weight)
    model = petl.wrap(copy.deepcopy(net), "probe", head="fc")
    history = quiet(model)
    if not words:
        assert "computed in closed form" in history.head and len(history.rows) == 1
        return
    assert history.head.startswith("the classifier trained by gradient: ") and words in history.head
    assert len(history.rows) > 1
    strict = petl.wrap(copy.deepcopy(net), petl.Probe(solver="ridge"), head="fc")
    before = state(strict)
    with pytest.raises(StateError, match=f"{words}.*solver='sgd'"):
        quiet(strict)
    assert all(torch.equal(value, before[key]) for key, value in state(strict).items())


@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", ["deit_distilled", "crossvit", "levit", "convnext"])
def test_both_heads_of_a_model_and_heads_with_norms_are_written(name: str) -> None:
    model = petl.wrap(make(name), "probe", num_classes=CLASSES)
    size = petl.data.pipeline(model)["input_size"][-1]
    data = TensorDataset(F.interpolate(TRAIN.tensors[0][:12], size), TRAIN.tensors[1][:12])
    history = quiet(model, data, None)
    assert "computed in closed form" in history.head, history.head
    with torch.no_grad():
        loss = F.cross_entropy(model.eval()(data.tensors[0]), data.tensors[1])
    assert history.rows[0]["train_loss"] == pytest.approx(float(loss), abs=1e-3)


def test_a_start_before_a_norm_with_moving_statistics_is_refused() -> None:
    model = petl.wrap(make("levit"), "lora", num_classes=CLASSES)
    size = petl.data.pipeline(model)["input_size"][-1]
    data = TensorDataset(F.interpolate(TRAIN.tensors[0][:6], size), TRAIN.tensors[1][:6])
    with pytest.raises(
        StateError, match="head.bn normalises the classifier's input by statistics that the training moves"
    ):
        quiet(model, data, None, epochs=1, lr=1e-3, start="probe")


@pytest.mark.deep
def test_class_weights_weigh_images_and_loaders_are_taken_as_they_are() -> None:
    x, y = TRAIN.tensors
    few = TensorDataset(x[:20], y[:20].clamp(max=1))
    models = [probe(solver="ridge") for _ in range(3)]
    quiet(models[0], few, None)
    quiet(models[1], few, None, class_weights="balanced")
    quiet(models[2], DataLoader(few, batch_size=7), None, class_weights="balanced")
    assert not torch.allclose(state(models[0])["fc.weight"], state(models[1])["fc.weight"], rtol=1e-2)
    torch.testing.assert_close(state(models[1])["fc.weight"], state(models[2])["fc.weight"], rtol=1e-3, atol=1e-3)
    assert (models[1].eval()(VAL.tensors[0]).argmax(1) != 2).all()  # class 2 has no images
    with pytest.raises(PetlError, match="lda counts all classes alike"):
        quiet(probe(solver="lda"), class_weights=[1.0, 2.0, 3.0])
    assert "(ridge)" in quiet(probe(), class_weights=[1.0, 2.0, 3.0]).head


@pytest.mark.parametrize("cut", ["one image a class", "one image", "nan"])
def test_tiny_and_broken_sets(cut: str) -> None:
    x, y = TRAIN.tensors
    if cut == "one image a class":
        history = quiet(probe(), TensorDataset(x[:3], y[:3]), VAL)
        assert "(prototypes)" in history.head
        return
    data = TensorDataset(x[:1], y[:1]) if cut == "one image" else TensorDataset(x * float("nan"), y)
    with pytest.raises(PetlError):
        quiet(probe(), data, None)


def test_what_start_can_not_be() -> None:
    with pytest.raises(PetlError, match="start='prob'; expected 'auto', 'probe', or None"):
        quiet(adapted("lora"), epochs=1, lr=1e-3, start="prob")
    headless = petl.wrap(timm.create_model("test_resnet", num_classes=CLASSES), "lora", head=False)
    with pytest.raises(StateError, match="classifier.*doesn't train"):
        quiet(headless, epochs=1, lr=1e-3, start="probe")
    with pytest.raises(PetlError, match="solver='svm'"):
        petl.Probe(solver="svm")
    with pytest.raises(PetlError, match="layers='some'"):
        petl.Probe(layers="some")


@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_all_layers_are_read_saved_loaded_and_taken_off(name: str, tmp_path: Path) -> None:
    model, out = probe(name, layers="all"), tmp_path / "delta.safetensors"
    x = VAL.tensors[0]
    plain = adapted("probe", name)
    assert torch.equal(model.eval()(x), plain.eval()(x))  # zero at the start
    history = quiet(model, out=out)
    assert "computed in closed form" in history.head and history.rows[0]["epoch"] == 1
    assert "more than one tensor" in history.features
    key = next(key for key in petl.trainable(model) if key.endswith("layers.weight"))
    assert model.get_parameter(key).any()
    with torch.no_grad():
        loss = F.cross_entropy(model(TRAIN.tensors[0]), TRAIN.tensors[1])
    assert history.rows[0]["train_loss"] == pytest.approx(float(loss), abs=1e-4)
    torch.manual_seed(3)
    size = {"img_size": SIZE} if name == "test_vit" else {}
    base = timm.create_model(name, **size)
    loaded = petl.load(out, copy.deepcopy(base))
    assert torch.equal(loaded.eval()(x), model.eval()(x))
    with pytest.raises(StateError, match="can't merge.*outputs of blocks before the last"):
        petl.merge(loaded)
    assert all(torch.equal(value, state(base)[k]) for k, value in state(petl.unwrap(loaded)).items())


@pytest.mark.deep
def test_all_layers_train_by_gradient_too_and_beside_lora() -> None:
    model = adapted([petl.LoRA(rank=2), petl.Probe(layers="all", solver="lda")])
    history = quiet(model, epochs=1, lr=1e-3)
    assert "started" in history.head and "closed form (lda)" in history.head
    by_gradient = probe(layers="all")
    before = state(by_gradient)["fc.layers.weight"]
    quiet(by_gradient, epochs=1, lr=1e-2)
    assert not torch.equal(state(by_gradient)["fc.layers.weight"], before)


def test_default_rates_start_from_it_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where the classifier is the one that wrap made, and not on so many images that their features are a burden."""
    started, tuned, told = adapted("norm"), adapted("norm"), adapted("norm")
    assert quiet(started, epochs=1).head.startswith("started from a classifier in closed form")
    assert quiet(started, epochs=1).head == ""  # it has been trained
    with torch.no_grad():
        tuned.get_submodule("fc").weight.mul_(2)
    assert quiet(tuned, epochs=1).head == "" == quiet(adapted("norm"), epochs=1, lr=1e-3).head
    assert quiet(told, epochs=1, start=None).head == ""
    monkeypatch.setattr(head_starters, "MOST_STARTED_UNASKED", 4)
    assert "more than 4 images" in quiet(adapted("norm"), epochs=1).head
    assert quiet(adapted("norm"), epochs=1, start="probe").head.startswith("started")
