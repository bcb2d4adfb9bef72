"""Loaders of every make, batches that are more than pairs, models that return more than scores: what fit and evaluate take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.data import create_loader
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, TensorDataset
from torchvision.models import googlenet

import petl
from petl.errors import DataError, PetlError

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

X = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3
THREE = TensorDataset(X, Y, torch.arange(24))
ONE = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
BATCHES = [(X[i : i + 8], Y[i : i + 8]) for i in (0, 8, 16)]


class Tiny(nn.Module):
    """A classifier that returns its scores in some way."""

    def __init__(self, how: Callable[[Tensor], Any] = lambda scores: scores):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        self.how = how

    def forward(self, x: Tensor) -> Any:
        return self.how(self.net(x))


def tiny(how: Callable[[Tensor], Any] = lambda scores: scores) -> Tiny:
    torch.manual_seed(3)
    return Tiny(how)


def trained(data: Any, model: nn.Module | None = None, **options: Any) -> tuple[Any, Any]:
    """The history on ``data``, and what is measured on it afterwards."""
    net = tiny() if model is None else model
    given = {"epochs": 2, "lr": 1e-2, "batch_size": 8, "progress": False, **options}
    history = petl.fit(net, data, data, **given)
    keys = {key: value for key, value in options.items() if key == "keys"}
    return history, petl.evaluate(net, data, batch_size=8, progress=False, **keys)


class Rows(Dataset):
    """Items as dicts, with something that is neither image nor label."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"path": f"{index}.png", "label": int(Y[index]), "image": X[index]}


class Unusual(Rows):
    """The same under names that say nothing."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"path": f"{index}.png", "answer": int(Y[index]), "photo": X[index]}


class Lines(IterableDataset):
    def __init__(self, items: list[Any]):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


class Sized:
    """A loader of nobody's make."""

    def __init__(self, items: list[Any]):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


def prefetching() -> Any:
    images = [np.random.default_rng(i).integers(255, size=(3, 8, 8), dtype=np.uint8) for i in range(24)]

    class Bytes(Dataset):
        transform = None

        def __len__(self) -> int:
            return 24

        def __getitem__(self, index: int) -> Any:
            return images[index], index % 3

    options: dict[str, Any] = {"num_workers": 0, "persistent_workers": False, "device": torch.device("cpu")}
    made = create_loader(Bytes(), (3, 8, 8), 8, use_prefetcher=True, **options)
    made.dataset.transform = None  # these are bytes already
    return made


LOADERS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "timm's with a prefetcher": (prefetching, {}),
    "a list of batches": (lambda: BATCHES, {}),
    "an iterable of batches": (lambda: Sized(BATCHES), {}),
    "an iterable of arrays": (lambda: Sized([(x.numpy(), y.numpy()) for x, y in BATCHES]), {}),
    "an iterable of images": (lambda: Sized([*zip(X, Y, strict=True)]), {}),
    "a stream of batches": (lambda: Lines(BATCHES), {}),
    "a stream of images": (lambda: Lines([*zip(X, Y.tolist(), strict=True)]), {}),
    "a stream of dicts": (lambda: Lines([Rows()[i] for i in range(24)]), {"keys": ("image", "label")}),
    "a DataLoader that doesn't batch": (lambda: DataLoader(Lines(BATCHES), batch_size=None), {}),
    "a dataset of dicts": (Rows, {"keys": ("image", "label")}),
    "a dataset of dicts with usual names": (Rows, {}),
    "a DataLoader of dicts with usual names": (lambda: DataLoader(Rows(), batch_size=8), {}),
    "batches as dicts with usual names": (lambda: Sized([{"pixel_values": x, "labels": y} for x, y in BATCHES]), {}),
    "a stream of dicts with usual names": (lambda: Lines([Rows()[i] for i in range(24)]), {}),
    "a DataLoader of dicts": (lambda: DataLoader(Rows(), batch_size=8), {"keys": ("image", "label")}),
    "a list of dicts": (lambda: [Rows()[i] for i in range(24)], {"keys": ["image", "label"]}),
    "batches as dicts": (lambda: Sized([{"x": x, "y": y} for x, y in BATCHES]), {"keys": ("x", "y")}),
    "batches as lists of one dict": (
        lambda: Sized([[{"x": x, "y": y[:, None]}] for x, y in BATCHES]),
        {"keys": ("x", "y")},
    ),
    "longer tuples": (lambda: THREE, {"keys": (0, 1)}),
    "a DataLoader of longer tuples": (lambda: DataLoader(THREE, batch_size=8), {"keys": (0, 1)}),
    "longer tuples in parts": (lambda: ConcatDataset([THREE]), {"keys": (0, 1)}),
    "labels first": (lambda: TensorDataset(Y, X), {"keys": (1, 0)}),
}


@pytest.mark.sweep(8)
@pytest.mark.parametrize("name", LOADERS)
def test_it_is_the_same_data(name: str) -> None:
    """Measured as the plain dataset is, and each image once."""
    make, options = LOADERS[name]
    history, metrics = trained(make(), **options)
    assert len(history) == 2
    assert sum(map(sum, metrics.confusion)) == 24
    if "timm" not in name:
        model = tiny()
        plain = petl.evaluate(model, TensorDataset(X, Y), progress=False)
        assert petl.evaluate(model, make(), progress=False, **options).loss == pytest.approx(plain.loss, abs=1e-6)


@pytest.mark.parametrize(
    "name", ["a dataset of dicts", "a DataLoader of dicts", "longer tuples", "timm's with a prefetcher"]
)
def test_balanced_weights_count_the_labels(name: str) -> None:
    make, options = LOADERS[name]
    assert len(trained(make(), class_weights="balanced", **options)[0]) == 2


def test_features_of_dicts_are_found_again(tmp_path: Any) -> None:
    roads = []
    for _ in range(2):
        model = tiny().requires_grad_(False)
        model.net[4].requires_grad_(True)
        roads.append(trained(Rows(), model, keys=("image", "label"), cache=tmp_path)[0].features)
    assert "trained from net.4 on" in roads[0]
    assert "(found there)" in roads[1]


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "an iterator": (lambda: (pair for pair in BATCHES), {}, "generator can be read once only"),
    "no length": (lambda: type("Endless", (), {"__iter__": lambda self: iter(BATCHES)})(), {}, "Endless has no length"),
    "no batch": (lambda: type("Liar", (Sized,), {"__len__": lambda self: 3})([]), {}, "gives no batch"),
    "a dict": (lambda: {"x": X, "y": Y}, {}, "got data of type dict"),
    "dicts without keys": (Unusual, {}, r"dict with 'path', 'answer', 'photo'.*keys=\('photo', 'answer'\)"),
    "tuples without keys": (lambda: THREE, {}, r"list of Tensor, Tensor, Tensor.*keys=\(0, 1\)"),
    "a key that isn't there": (
        Rows,
        {"keys": ("image", "lable")},
        "lable.*there is dict with 'path', 'label', 'image'",
    ),
    "a number that isn't there": (
        lambda: TensorDataset(X, Y),
        {"keys": (0, 5)},
        r"keys=\(0, 5\), and there is tuple of",
    ),
    "one key": (Rows, {"keys": "image"}, "keys='image'; expected the names"),
    "three keys": (Rows, {"keys": ("image", "label", "path")}, "expected the names or numbers of two parts"),
    "items that can't be put together": (
        lambda: [(object(), 0)] * 4,
        {},
        "can't be put into a batch: tuple of object, int",
    ),
    "one class": (lambda: TensorDataset(X, Y * 0), {}, "are of one class"),
    "one class in batches": (
        lambda: TensorDataset(X, Y),
        {"model": nn.Sequential(nn.Flatten(), nn.Linear(192, 1))},
        "one class alone",
    ),
    "a label too high": (lambda: TensorDataset(X, Y + 1), {}, "label 3 for a model of 3 classes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_one_clear_error(name: str) -> None:
    make, options, message = REFUSED[name]
    with pytest.raises(PetlError, match=message):
        trained(make(), **options)


def test_the_advised_keys_work() -> None:
    for data in (Unusual(), THREE, DataLoader(Unusual(), batch_size=8)):
        with pytest.raises(DataError) as error:
            trained(data)
        keys = eval(str(error.value).rpartition("keys=")[2])
        assert len(trained(data, keys=keys)[0]) == 2


def test_a_loader_that_starts_no_second_time(tmp_path: Any) -> None:
    """The delta of the first epoch is there."""
    once = iter(BATCHES)
    data = type("Once", (Sized,), {"__iter__": lambda self: once})(BATCHES)
    model = petl.wrap(timm.create_model("test_resnet"), "bn", num_classes=3)
    with pytest.raises(DataError, match="gave no image in epoch 2; a loader has to start anew"):
        petl.fit(model, data, epochs=2, lr=1e-3, out=tmp_path / "d.safetensors", progress=False)
    assert petl.read(tmp_path / "d.safetensors")["results"]["epoch"] == 1


# What models return


class Output(dict):
    """Like a ModelOutput of transformers: a dict that has its items as attributes too."""

    __getattr__ = dict.__getitem__


OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "a ModelOutput": lambda scores: Output(loss=None, logits=scores, hidden=scores[:, :1]),
    "a dict with logits": lambda scores: {"features": scores * 2, "logits": scores},
    "a dict of one": lambda scores: {"prediction": scores},
    "a tuple": lambda scores: (scores, scores * 2),
    "a tuple in a tuple": lambda scores: ((scores, None), scores * 2),
}


@pytest.mark.parametrize("how", OUTPUTS.values(), ids=OUTPUTS.keys())
@pytest.mark.sweep(2)
def test_outputs_are_as_good_as_their_scores(how: Callable[[Tensor], Any]) -> None:
    runs = [trained(TensorDataset(X, Y), tiny(which)) for which in (lambda scores: scores, how)]
    assert runs[0][0].rows[-1]["train_loss"] == runs[1][0].rows[-1]["train_loss"]
    assert runs[0][1].loss == runs[1][1].loss


def test_a_probe_of_a_model_that_returns_an_object_trains_on_features() -> None:
    model = tiny(OUTPUTS["a dict with logits"]).requires_grad_(False)
    model.net[4].requires_grad_(True)
    assert "trained from net.4 on" in trained(TensorDataset(X, Y), model)[0].features


def test_an_outer_module_is_no_head() -> None:
    """All that it has is inside: its images would be kept as features, under one augmentation for all epochs."""
    assert trained(TensorDataset(X, Y), tiny())[0].features == ""


@pytest.mark.parametrize("how", [lambda scores: {"a": scores, "b": scores}, lambda scores: None, lambda scores: "no"])
def test_outputs_without_scores(how: Callable[[Tensor], Any]) -> None:
    with pytest.raises(
        DataError, match=r"the model answers .* with a (dict with a, b|NoneType|str); expected \[1, classes\]"
    ):
        trained(TensorDataset(X, Y), tiny(how))


def test_scores_only_in_evaluation() -> None:
    model = tiny()
    model.how = lambda scores: {"a": scores, "b": scores} if model.training else scores
    with pytest.raises(DataError, match="the model returns a dict with a, b; expected class scores"):
        trained(TensorDataset(X, Y), model)


@pytest.mark.deep
def test_auxiliary_scores_come_second_in_training() -> None:
    images = TensorDataset(torch.randn(6, 3, 64, 64), torch.arange(6) % 3)
    distilled = timm.create_model(
        "deit_tiny_distilled_patch16_224", img_size=32, patch_size=16, embed_dim=16, depth=2, num_heads=2, num_classes=3
    )
    distilled.set_distilled_training(True)
    small = TensorDataset(images.tensors[0][..., :32, :32], images.tensors[1])
    for model, data in ((distilled, small), (googlenet(num_classes=3, aux_logits=True, init_weights=False), images)):
        wrapped = petl.wrap(model, "norm" if model is distilled else "bn", head=True if model is distilled else "fc")
        history, _ = trained(data, wrapped, epochs=1, batch_size=3)
        assert np.isfinite(history.rows[0]["train_loss"])
