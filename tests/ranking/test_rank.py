"""`petl.rank`: orders backbones by what their features tell, says what each costs, and leaves everything as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, TensorDataset

import petl
from petl.ranking.ranking import MEASURED_TIMES
from tests.support.backbones import Telling, told_by_colour, weights_file
from tests.support.commands import bright_and_dark
from tests.support.feature_data import small

pytestmark = pytest.mark.deep  # the commands' tests go the same ways, shorter


def plain(ranking: petl.Ranking) -> Any:
    """All but the times."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(item) for key, item in value.items() if key not in MEASURED_TIMES}
        return [without(item) for item in value] if isinstance(value, list) else value

    return without(ranking.to_json())


def ranked(*args: Any, **options: Any) -> petl.Ranking:
    return petl.rank(*args, progress=False, **options)


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "pets"
    bright_and_dark(folder, 10)
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No download is tried, whatever the environment says: huggingface_hub reads it when it is imported."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_it_is_repeatable_and_leaves_models_and_chance_alone(pets: Path, tmp_path: Path) -> None:
    models = {"one": small().train(), "two": petl.wrap(small("test_efficientnet"), "lora", num_classes=2)}
    before = {name: {key: value.clone() for key, value in model.state_dict().items()} for name, model in models.items()}
    modes = [module.training for model in models.values() for module in model.modules()]
    asked: dict[str, Any] = {**models, "file": f"test_vit:{weights_file(tmp_path, 'test_vit')}"}
    torch.manual_seed(7)
    first = ranked(asked, pets)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(3))
    second = ranked(asked, str(pets))
    assert first == second and plain(first) == plain(second)
    assert json.loads(json.dumps(first.to_json(), allow_nan=False))["kind"] == "ranking"
    assert modes == [module.training for model in models.values() for module in model.modules()]
    for name, model in models.items():
        assert all(torch.equal(value, before[name][key]) for key, value in model.state_dict().items())
    assert {row.name for row in first.rows} == {*asked} and first["file"].side == 160
    assert first["one"].params == sum(p.numel() for p in models["one"].parameters()) and first["one"].gmacs > 0.05


def test_weak_candidates_are_dropped_after_few_images() -> None:
    data, weak, strong = told_by_colour(900), Telling(noise=40.0), Telling(noise=0.01)
    ranking = ranked({"weak": weak, "strong": strong}, data, head=False, images=640)
    assert ranking.best == "strong" and ranking.ties == ["strong"] and ranking.images == 640
    row = ranking["weak"]
    assert (row.dropped_at, row.images) == (128, 128) and "below strong on 128 images" in row.why and not row.tie
    assert [step.images for step in ranking["strong"].steps] == [128, 640]  # 512 would have spared too little
    priced = weak.seen - 128
    assert strong.seen - priced == 640 + 180  # each image once, and those that chose nothing
    assert row.behind_low > 0 and ranking["strong"].behind == 0
    assert "Dropped early (images): weak after 128." in str(ranking)


def test_the_best_is_measured_on_images_that_chose_nothing(pets: Path, tmp_path: Path) -> None:
    train, val = told_by_colour(60), told_by_colour(30, seed=1)
    ranking = ranked(Telling(), (train, val), head=False)
    assert ranking.held_out is not None and ranking.held_out.images == 30 and ranking.images == ranking.total == 60
    assert "own images" in ranking.held_out.source
    fifth = ranked(small(), pets)
    assert fifth.held_out is not None and (fifth.held_out.images, fifth.images, fifth.total) == (4, 16, 20)
    few = ranked(Telling(), told_by_colour(8), head=False)
    assert few.held_out is None and "fewer than 4" in few.held_out_note and "No image is left" in str(few)


def test_held_out_images_are_of_other_groups(tmp_path: Path) -> None:
    rows = ["path,label,group"]
    for number in range(40):
        Image.fromarray(np.full((16, 16, 3), number * 6, np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,{'dark' if number < 20 else 'bright'},{number // 4}")
    (tmp_path / "pets.csv").write_text("\n".join(rows))
    ranking = ranked(small(), tmp_path / "pets.csv", size=64)
    assert ranking.held_out is not None and ranking.held_out.images % 4 == 0
    assert any("groups" in warning for warning in ranking.warnings)
    assert ranking["test_resnet"].side == 64


def test_uneven_classes_count_alike() -> None:
    data = told_by_colour(240)
    uneven = Subset(data, [i for i in range(240) if i % 2 == 0 or i % 12 == 1])
    ranking = ranked({"a": Telling(), "b": Telling(noise=9.0)}, uneven, head=False)
    assert ranking.measure == "balanced accuracy" and ranking["a"].score == ranking["a"].balanced
    assert ranking["b"].behind == pytest.approx(ranking["a"].balanced - ranking["b"].balanced)
    assert ranked(Telling(), data, head=False).measure == "accuracy"


def test_features_that_say_no_more_than_pixels_raise_an_alarm() -> None:
    data = told_by_colour(200)
    weak = ranked(Telling(noise=60.0), data, head=False)
    assert weak.raw_pixels.gain_high < 0 and "below raw pixels" in weak.alarms[0] and weak.alarms[0] in str(weak)
    y = data.tensors[1]
    hidden = data.tensors[0].clone()
    hidden[:, 0] -= 0.3 * y[:, None, None]
    told = Fine()
    hidden[:, 0] += 0.2 * y[:, None, None] * Fine.pattern(32)
    good = ranked(told, TensorDataset(hidden, y), head=False)
    assert not good.alarms and good.raw_pixels.gain_low > 0.2


def test_images_that_cannot_be_read_do_not_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "pets"
    bright_and_dark(folder, 6)
    names = sorted((folder / "dark").iterdir())
    names[0].write_bytes(b"no image")
    found = ranked([small(), small("test_efficientnet")], folder, size=32)
    assert found.total == 12 and sum("are left out" in record.message for record in caplog.records) == 1
    assert "1 of 12 images can't be read, and are left out." in found.warnings
    for name in names[1:3]:
        name.write_bytes(b"no image")
    with pytest.raises(petl.DataError, match=r"rank needs 4 images of each class.*dark \(3\)"):
        ranked(small(), folder, size=32)
    for name in names[3:]:
        name.write_bytes(b"no image")
    with pytest.raises(petl.DataError, match="no image of class dark can be read"):
        ranked(small(), folder, size=32)


def test_models_without_pooling_are_refused_and_weights_out_of_reach_are_said_once(pets: Path) -> None:
    tokens = small("test_vit", global_pool="", num_classes=2)
    for refused in (lambda: ranked(tokens, pets), lambda: petl.advise(tokens, pets, progress=False)):
        with pytest.raises(petl.SiteError, match=r"global_pool=''"):
            refused()
    with pytest.raises(petl.StateError, match="can't be fetched") as caught:
        ranked(["test_vit.r160_in1k", "test_resnet.r160_in1k"], pets)
    assert str(caught.value).count("can't be fetched") == 1 and "test_vit.r160_in1k, test_res" in str(caught.value)


class Fine(Telling):
    """Sees a checkerboard of single pixels, which small pictures lose."""

    @staticmethod
    def pattern(side: int) -> torch.Tensor:
        rows = torch.arange(side)
        return ((rows[:, None] + rows[None]) % 2 * 2 - 1).float()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images * self.pattern(images.shape[-1]))


def test_each_reads_folders_in_its_own_way_and_tensors_as_they_are(pets: Path) -> None:
    own = petl.data.dataset(pets, {**petl.data.pipeline(small()), "input_size": (3, 40, 40)})
    both = [small(), small("test_efficientnet")]
    for data in (own, ConcatDataset([own])):
        ranking = ranked(both, data, size=64)
        assert {row.side for row in ranking.rows} == {64} and not ranking.warnings
    assert own[0][0].shape == (3, 40, 40)
    tensors = ranked(small(), told_by_colour(40))
    assert any("one pipeline is used for all" in warning for warning in tensors.warnings)
    pairs = [(Image.open(own.filename(i)).convert("RGB"), int(own.targets[i])) for i in range(len(own))]
    assert plain(ranked(both, pairs, size=64))["rows"] == plain(ranked(both, own, size=64))["rows"]


def test_a_file_that_cannot_be_read_is_left_out_for_all(tmp_path: Path) -> None:
    bright_and_dark(tmp_path / "pets", 12)
    file = tmp_path / "pets" / "dark" / "3.png"
    damaged = bytearray(file.read_bytes())
    damaged[60:90] = bytes(30)
    file.write_bytes(bytes(damaged))
    models = {"a": small(), "b": small("test_efficientnet")}
    ranking = ranked(models, tmp_path / "pets", size=64)
    counts = ranking.images + (ranking.held_out.images if ranking.held_out else 0)
    assert counts == 23 and {row.images for row in ranking.rows} == {ranking.images}
    with pytest.raises(petl.StateError, match="no candidate could be measured.*3.png"):
        ranked(models, tmp_path / "pets", size=64, strict=True)


@pytest.mark.usefixtures("offline")
def test_what_cannot_be_had_is_listed_and_the_others_go_on(pets: Path) -> None:
    gray = small("test_vit", in_chans=5)
    ranking = ranked([small(), "test_vit.r160_in1k", "botnet50ts_256", gray], pets)
    assert [row.name for row in ranking.rows] == ["test_resnet"] and len(ranking.left_out) == 3
    assert "no pretrained weights of botnet50ts_256" in ranking.left_out["botnet50ts_256"]
    assert "5 channels" in ranking.left_out["test_vit"] and "Not measured: test_vit.r160_in1k" in str(ranking)
    with pytest.raises(petl.StateError, match="timm can't build test_vit.r160_in1k"):
        ranked("test_vit.r160_in1k", pets)


@pytest.mark.usefixtures("offline")
def test_either_order_and_data_alone(pets: Path, tmp_path: Path) -> None:
    model = small()
    one, other, third = (ranked(*order, size=64) for order in ((model, pets), (pets, model), ([model], pets)))
    assert plain(one) == plain(other) == plain(third)
    words = f"test_vit:{weights_file(tmp_path, 'test_vit')}"
    assert ranked(pets, [words, model]).best in (words, "test_resnet")
    with pytest.raises(petl.StateError, match="no candidate could be measured.*test_"):  # timm's smallest
        ranked(pets, max_params="0.5M", most=2)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (TensorDataset(torch.zeros(8, 3, 32, 32), torch.zeros(8).long()), petl.DataError, "two classes or more; got 1"),
        (TensorDataset(torch.zeros(9, 3, 32, 32), (torch.arange(9) > 5).long()), petl.DataError, "needs 4 images"),
        (TensorDataset(torch.zeros(9, 3, 32, 32), torch.rand(9)), petl.DataError, "one class for each image"),
        (TensorDataset(torch.zeros(9, 3, 32, 32)), petl.DataError, "expected a pair"),
        (TensorDataset(torch.zeros(9, 3, 32, 32), torch.arange(9) % 2 - 1), petl.DataError, "label -1"),
        (None, petl.PetlError, "rank needs data"),
        (3, petl.DataError, "got a int"),
    ],
)
def test_data_that_cannot_be_used(data: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ranked(small(), data)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"images": 0}, "images=0"),
        ({"images": 7}, "images=7 are fewer than 4 for each of 2 classes"),
        ({"max_params": "many"}, "max_params='many'"),
        ({"max_gmacs": -1}, "max_gmacs=-1"),
        ({"licence": "opne"}, "near names: open"),
        ({"most": 0}, "most=0"),
        ({"size": 1.5}, "size=1.5"),
        ({"seed": -1}, "seed=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"pipeline": {"crop": 1}}, "no 'crop'"),
        ({"image": 100}, "no option 'image'; near names: images"),
        ({"max_params": 1000}, "more than max_params"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(petl.PetlError, match=words):
        ranked(small(), told_by_colour(40), **options)


def test_a_network_whose_classifier_is_not_known_is_refused() -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2)
    )
    with pytest.raises(petl.SiteError, match="head="):
        ranked(net, told_by_colour(40))
    assert ranked(net, told_by_colour(40), head="3").rows[0].width == 4


def test_the_warnings_name_licences(pets: Path) -> None:
    bound, free, unknown = small(), small("test_efficientnet"), small("test_vit")
    for model, licence in ((bound, "cc-by-nc-4.0"), (unknown, None)):
        model.pretrained_cfg = {**model.pretrained_cfg, "license": licence}
    ranking = ranked({"bound": bound, "free": free, "unknown": unknown}, pets, size=64)
    said = " ".join(ranking.warnings)
    assert "bound must not be used commercially" in said and "unknown have no known licence" in said
    assert "free" not in said
    allowed = ranked({"bound": bound, "free": free, "unknown": unknown}, pets, size=64, licence="open")
    assert allowed.left_out == {"bound": "its licence is cc-by-nc-4.0"} and len(allowed.rows) == 2
