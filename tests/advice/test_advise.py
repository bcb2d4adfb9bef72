"""`petl.advise` on tiny models and images whose right answer is known by construction."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import petl
from benchmarks.guidance.synthetic_tasks import TASKS
from petl.errors import DataError
from tests.support.commands import bright_and_dark
from tests.support.compare import portrait

pytestmark = pytest.mark.deep  # the commands' tests go the same ways, shorter


SIDE = 64


def net(name: str = "test_resnet", seed: int = 5) -> nn.Module:
    """A model with the same random weights at every call, which stand for pretrained ones."""
    torch.manual_seed(seed)
    size: dict[str, Any] = {"img_size": SIDE} if "vit" in name else {}
    return timm.create_model(name, **size).eval()


def task(name: str, model: nn.Module, images: int = 80, seed: int = 0) -> TensorDataset:
    """A synthetic task as the model reads it."""
    return TASKS[name](images=images, seed=seed).tensors(petl.data.pipeline(model, size=SIDE))


def read_by(model: nn.Module, images: int = 120, component: int = 7) -> TensorDataset:
    """Images with the two classes that the model's features tell apart: the sides of one of their principal axes."""
    pictures: Tensor = task("textures", model, images).tensors[0]
    x = petl.features(model, TensorDataset(pictures), progress=False).x.double()
    centred = x - x.mean(0)
    along = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[component]
    return TensorDataset(pictures, (along > along.median()).long())


def advised(model: nn.Module, data: Any, *args: Any, **options: Any) -> petl.Advice:
    return petl.advise(model, data, *args, progress=False, **options)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return net()


@pytest.fixture(scope="module")
def positive(resnet: nn.Module) -> petl.Advice:
    return advised(resnet, read_by(resnet))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_what_the_model_alone_reads_is_positive(name: str) -> None:
    model = net(name)
    advice = advised(model, read_by(model))
    assert advice.verdict.transfer == "positive" and advice.distance.verdict == "near" and not advice.alarms
    assert advice.readings.pretrained.accuracy > max(advice.readings.raw.accuracy, advice.readings.random.accuracy)  # type: ignore[union-attr]  # there is one
    assert advice.profile.applicable == (name == "test_resnet")
    assert advice.methods[0] == [petl.Probe()]


def test_what_raw_pixels_alone_read_is_negative(resnet: nn.Module) -> None:
    """And an alarm says so; the first block, which knows places better, is found."""
    advice = advised(resnet, task("fixed_place", resnet))
    assert advice.verdict.transfer == "negative" and advice.distance.verdict == "far"
    assert advice.verdict.comparison.second.startswith("raw pixels")
    assert "better than what was pretrained" in advice.alarms[0]
    assert [petl.Partial(first=1, last=0)] in advice.methods


@pytest.mark.sweep(1)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shuffled_labels_are_ambiguous(resnet: nn.Module, seed: int) -> None:
    advice = advised(resnet, task("shuffled", resnet, images=64, seed=seed))
    assert advice.verdict.transfer == "ambiguous" and len(advice.alarms) == 1
    assert not advice.verdict.above_chance[0] or "nothing shows" in advice.alarms[0]


def test_model_and_generators_stay_and_the_advice_repeats() -> None:
    model = net().train()
    data = read_by(model, 40)
    before, states = portrait(model), (random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist())  # type: ignore[index]  # a tuple
    first = advised(model, data, cache=False)
    assert portrait(model) == before
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
    assert np.random.get_state()[1].tolist() == states[2]  # type: ignore[index]  # as above
    assert advised(model, data, cache=False).to_json() == first.to_json()
    assert advised(model, data, cache=False, seed=3).to_json() != first.to_json()


def test_every_method_is_what_wrap_takes_with_the_rates_of_fit(positive: petl.Advice) -> None:
    for row, methods in zip(positive.shortlist, positive.methods, strict=True):
        model = petl.wrap(net(), methods, num_classes=2)
        own = {group["name"]: group["peak_lr"] for group in petl.param_groups(model)}
        assert row.lr is None and row.basis
        assert row.rates == {} if isinstance(methods[0], petl.Probe) else {**own, **row.rates} == {**own, "head": 5e-4}  # type: ignore[dict-item]  # known here
        assert eval(row.code, {"petl": petl}) in (methods, methods[0])


def test_all_numbers_are_in_the_json(positive: petl.Advice) -> None:
    found = json.loads(json.dumps(positive.to_json(), allow_nan=False))
    assert found["kind"] == "advice" and found["methods"] == [row["methods"] for row in found["shortlist"]]
    assert found["methods"][0] == [petl.Probe().to_json() | {"where": []}]
    assert found["readings"]["curve"][-1]["what"] == "pretrained" and len(found["readings"]["curve"]) == 5
    assert len(found["profile"]["layers"]) > 5 and 0 < found["stem"]["reach"] < 1
    assert 9 <= len(positive.sentences()) <= 14


def pictures(folder: Path) -> Path:
    """Two classes in train and val; a copy within, one across the splits, one under another label, and a broken file."""
    bright_and_dark(folder / "train", 8)
    bright_and_dark(folder / "val", 5, seed=1)
    train, val = folder / "train", folder / "val"
    (train / "dark" / "copy.png").write_bytes((train / "dark" / "0.png").read_bytes())
    (val / "dark" / "copy.png").write_bytes((train / "dark" / "1.png").read_bytes())
    (train / "bright" / "twice.png").write_bytes((train / "dark" / "2.png").read_bytes())
    (train / "bright" / "broken.png").write_bytes(b"no image")
    return folder


def test_a_folder_with_splits_tells_copies_labels_and_broken_files(tmp_path: Path, resnet: nn.Module) -> None:
    folder = pictures(tmp_path / "pets")
    bright_and_dark(tmp_path / "later", 5, seed=2)
    advice = advised(resnet, folder, new=tmp_path / "later" / "bright")
    facts = advice.facts
    assert (facts.images, facts.own_split, facts.per_class) == (18, 11, {"bright": 9, "dark": 9})
    assert (facts.files.width.median, facts.files.bits, facts.files.channels) == (32, {"8": 18}, {"1": 18})
    assert [Path(file).name for file in facts.files.unreadable] == ["broken.png"]
    copies = facts.duplicates
    assert (copies.within, copies.within_exact, copies.across, copies.conflicting, copies.new) == (2, 2, 1, 1, 0)
    groups = [{Path(file).name for file in group.files} for group in copies.groups]
    assert groups == [{"2.png", "twice.png"}, {"0.png", "copy.png"}, {"1.png", "copy.png"}]
    assert sum("several labels" in alarm for alarm in advice.alarms) == 1
    assert any("own split" in alarm for alarm in advice.alarms)
    assert advice.stem.gray == 1 and "They are gray" in str(advice)
    assert advice.new is not None and advice.new.images == 5 and advice.new.profile.applicable
    assert "petl.shift" in str(advice)


def test_new_images_that_are_training_images_are_told(tmp_path: Path, resnet: nn.Module) -> None:
    bright_and_dark(tmp_path / "pets", 6)
    files = sorted((tmp_path / "pets" / "dark").glob("*.png"))[:3]
    same = advised(resnet, tmp_path / "pets", new=[str(file) for file in files])
    far = advised(resnet, tmp_path / "pets", new=torch.full((8, 3, 160, 160), 3.0))
    assert same.new is not None and same.new.duplicates == 3
    assert far.new is not None and far.new.duplicates == 0 and far.new.profile.first > 2 * same.new.profile.first


def test_tables_pairs_subsets_and_loaders_are_read(tmp_path: Path, resnet: nn.Module) -> None:
    bright_and_dark(tmp_path / "pets", 6)
    rows = [(str(file), file.parent.name) for file in sorted((tmp_path / "pets").rglob("*.png"))]
    table = pd.DataFrame(rows, columns=["file", "kind"])
    read = advised(resnet, table, path="file", label="kind")
    plain = advised(resnet, tmp_path / "pets")
    assert read.facts.per_class == plain.facts.per_class and read.readings == plain.readings
    images = task("textures", resnet, 40)
    pair = advised(resnet, (Subset(images, range(24)), Subset(images, range(20, 40))))
    assert pair.facts.own_split == 20 and pair.facts.duplicates.across == 4
    assert pair.facts.files.files == 0 and "no files" in str(pair)
    loaded = advised(resnet, DataLoader(images, batch_size=8))
    assert loaded.facts.images == 40


def test_images_of_four_bands_are_read_through_an_input_layer(tmp_path: Path) -> None:
    model, rng = net(), np.random.default_rng(0)
    for name, level in (("low", 40), ("high", 180)):
        (tmp_path / name).mkdir()
        for number in range(6):
            np.save(tmp_path / name / f"{number}.npy", (level + rng.integers(0, 60, (4, 40, 48))).astype(np.uint8))
    before = portrait(model)
    advice = advised(model, tmp_path)
    assert portrait(model) == before
    assert (advice.facts.channels, advice.facts.expected, advice.facts.files.channels) == (4, 3, {"4": 12})
    assert (advice.facts.files.width.most, advice.facts.files.height.most) == (48, 40)
    assert all(methods[0] == petl.Input(in_chans=4) for methods in advice.methods)
    petl.wrap(net(), advice.methods[0], num_classes=2)
    bands = TensorDataset(torch.randn(16, 4, SIDE, SIDE), torch.arange(16) % 2)
    assert advised(model, bands).facts.channels == 4
    gray = TensorDataset(bands.tensors[0][:, :1], bands.tensors[1])  # a tensor isn't repeated, as a gray file is
    assert advised(model, gray).methods[0][0] == petl.Input(in_chans=1)
    wrapped = petl.wrap(net(), [petl.Input(in_chans=4), "norm"], num_classes=2)
    assert not any(isinstance(methods[0], petl.Input) for methods in advised(wrapped, bands).methods)
    with pytest.raises(DataError, match="wrap a backbone with petl.Input"):
        advised(petl.wrap(net(), "norm", num_classes=2), bands)


def test_two_bands_whose_mean_says_nothing_want_an_input_layer(resnet: nn.Module) -> None:
    advice = advised(resnet, task("colour_opponent", resnet))
    assert advice.verdict.transfer == "negative" and advice.facts.channels == 2
    assert all(methods[0] == petl.Input(in_chans=2) for methods in advice.methods)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.zeros(12, dtype=torch.int64), "two classes or more; got 1"),
        (torch.tensor([0] * 9 + [1] * 3), r"4 images of each class or more; too few are of 1 \(3\)"),
        (torch.rand(12), "numbers or several labels"),
        (torch.ones(12, 3), "numbers or several labels"),
    ],
)
def test_labels_that_cannot_be_used_are_one_error(resnet: nn.Module, labels: torch.Tensor, words: str) -> None:
    with pytest.raises(DataError, match=words):
        advised(resnet, TensorDataset(torch.randn(12, 3, SIDE, SIDE), labels))


def test_settings_that_cannot_be_are_one_error(resnet: nn.Module) -> None:
    data = TensorDataset(torch.randn(12, 3, SIDE, SIDE), torch.arange(12) % 2)
    with pytest.raises(petl.PetlError, match="images=0; expected"):
        advised(resnet, data, images=0)
    with pytest.raises(petl.PetlError, match="got a str as the model"):
        advised("resnet50", data)  # type: ignore[arg-type]  # that is the test


def test_images_without_labels_are_one_error(resnet: nn.Module) -> None:
    with pytest.raises(DataError):
        advised(resnet, TensorDataset(torch.randn(12, 3, SIDE, SIDE)))


def test_an_adapted_model_and_one_that_is_not_timms_are_read(resnet: nn.Module) -> None:
    data = read_by(resnet, 40)
    wrapped = petl.wrap(net(), "lora", num_classes=2)
    before = portrait(wrapped)
    advice = advised(wrapped, data)
    assert portrait(wrapped) == before and advice.readings.random is not None and advice.shortlist[0].rates is not None
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)]
    own = advised(nn.Sequential(*layers), data, head="5")
    assert own.readings.random is not None and "its layers" in own.readings.random_by
    assert own.profile.applicable and own.shortlist
    assert advised(timm.create_model("test_vit", num_classes=0, img_size=SIDE), data).readings.random is not None


def test_at_most_so_many_images_are_read(resnet: nn.Module) -> None:
    advice = advised(resnet, read_by(resnet, 60), images=20)
    assert (advice.facts.images, advice.facts.measured) == (60, 20) and sum(advice.facts.per_class.values()) == 60
    assert "20 of them are read" in str(advice)


def test_a_sample_has_four_images_of_every_class(resnet: nn.Module) -> None:
    pictures = torch.randn(60, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    advice = advised(resnet, TensorDataset(pictures, torch.arange(60) % 10), images=12)
    assert (advice.facts.measured, advice.facts.classes) == (40, 10)


def test_all_right_in_a_large_and_a_small_class_is_above_chance() -> None:
    y = torch.tensor([0] * 60 + [1] * 4)
    x = torch.randn(64, 3, SIDE, SIDE) * 0.1 + y.view(-1, 1, 1, 1) * 3
    found = petl.advise(net(), TensorDataset(x, y), progress=False)
    assert found.readings.raw.accuracy == 1 and 0.05 < found.readings.raw.error < 0.12
    assert found.verdict.above_chance[1] and not any("better than chance" in alarm for alarm in found.alarms)
