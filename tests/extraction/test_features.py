"""`petl.features`: what the classifier takes, computed once, from any data; the model is afterwards as before."""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

import petl
from petl.extraction import kept_features
from tests.support.compare import equal, state
from tests.support.feature_data import Counted, Items, noise, pictures, small

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_features, "SESSION", kept_features.SessionKeep())


def labelled(count: int = 7) -> TensorDataset:
    return TensorDataset(noise(count), torch.arange(count) % 3)


def before_classifier(model: Any, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval().forward_head(model.forward_features(images), pre_logits=True).flatten(1)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit2", "test_nfnet"])
def test_x_is_what_the_classifier_takes(name: str) -> None:
    """timm's ``pre_logits``; the same from a model that has no classifier."""
    model = small(name)
    f = petl.features(model, labelled(), cache=False)
    assert f.x.dtype == torch.float32 and f.x.device.type == "cpu"
    assert torch.equal(f.x, before_classifier(model, noise()))
    assert f.y is not None and f.y.dtype == torch.int64 and f.y.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert f.classes == ["0", "1", "2"]
    model.reset_classifier(0)
    assert torch.equal(petl.features(model, labelled(), cache=False).x, f.x)


def test_a_wrapped_model_has_its_delta() -> None:
    model = petl.wrap(small(), "lora", num_classes=3)
    plain = petl.features(model, labelled()).x
    for name, parameter in petl.trainable(model).items():
        if "lora" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    f = petl.features(model, labelled())
    assert not torch.equal(f.x, plain)
    assert torch.equal(f.x, before_classifier(model, noise()))
    inner = petl.features(nn.Sequential(model), labelled())
    assert torch.equal(inner.x, f.x)
    inputs = petl.features(petl.wrap(small(), petl.Input(in_chans=2), num_classes=3), noise()[:, :2])
    assert inputs.x.shape == f.x.shape


def test_the_head_of_a_trained_probe_changes_no_features() -> None:
    model = petl.wrap(small(), "probe", num_classes=3)
    f = petl.features(model, labelled())
    with torch.no_grad():
        model.get_classifier().weight.add_(1)
    assert petl.features(model, labelled()).cached
    assert torch.equal(petl.features(model, labelled()).x, f.x)


@pytest.mark.parametrize(
    "kind", ["tensors", "list", "dataset", "loader", "shuffled", "folder", "files", "tar", "dicts", "subset"]
)
@pytest.mark.sweep(5)
def test_a_second_call_runs_nothing(kind: str, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "new", 5) if kind in ("folder", "files", "tar") else tmp_path
    if kind == "tar":
        with tarfile.open(tmp_path / "new.tar", "w") as archive:
            archive.add(folder, "pets/cat")
    data: Any = {
        "tar": tmp_path / "new.tar",
        "tensors": labelled(),
        "list": [(image, i) for i, image in enumerate(noise())],
        "dataset": Items(lambda i: (noise(5)[i], i % 2)),
        "loader": DataLoader(labelled(), batch_size=3),
        "shuffled": DataLoader(labelled(), batch_size=3, shuffle=True),
        "folder": folder,
        "files": sorted(folder.glob("*.png")),
        "dicts": Items(lambda i: {"pixels": noise(5)[i], "name": i}),
        "subset": ConcatDataset([Subset(labelled(), [5, 2, 0]), labelled(4)]),
    }[kind]
    options: dict[str, Any] = {"keys": ("pixels", "name")} if kind == "dicts" else {}
    model = (
        small("test_vit2", img_size=64)
        if kind == "tensors"
        else small(pretrained_cfg_overlay={"input_size": (3, 64, 64)})
    )
    with Counted(model) as counted:
        f = petl.features(model, data, batch_size=4, **options)
        assert counted.images == len(f)
        again = petl.features(model, data, batch_size=4, **options)
        assert counted.images == len(f)
        assert again.cached and not f.cached
        assert torch.equal(again.x, f.x) and again.files == f.files
        assert (again.y is None and f.y is None) or torch.equal(again.y, f.y)  # type: ignore[arg-type]
        again.x.zero_()  # the caller's, not the cache's
        assert torch.equal(petl.features(model, data, batch_size=4, **options).x, f.x)
        petl.features(model, data, batch_size=4, cache=False, **options)
        assert counted.images == 2 * len(f)


def test_other_weights_images_or_settings_are_computed_anew() -> None:
    model = small()
    f = petl.features(model, labelled())
    moved = labelled()
    moved.tensors[0][3, 0, 0, 0] += 1
    assert not petl.features(model, moved).cached
    assert not petl.features(model, labelled(), batch_size=2).cached
    assert not petl.features(model, labelled(), precision="bf16").cached
    with torch.no_grad():
        model.conv1[0].weight[0, 0, 0, 0] += 0.5
    other = petl.features(model, labelled())
    assert not other.cached and not torch.equal(other.x, f.x)
    next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).running_mean[0] += 1
    assert not petl.features(model, labelled()).cached
    model.act1.forward = lambda x: x
    assert not petl.features(model, labelled()).cached


def test_hooks_count() -> None:
    """What a hook computes with (tensors, fractions) is part of what features depend on; what it counts isn't."""
    model, count, by = small(), 0, 1.0

    def scale(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        nonlocal count
        count += len(output)
        return output * by

    plain = petl.features(model, noise()).x
    model.layer1.register_forward_hook(scale)
    for by, images in ((1.0, 7), (1.0, 7), (2.0, 14)):  # the hook reads it
        f = petl.features(model, noise())
        assert count == images
        assert torch.equal(f.x, plain) == (by == 1.0)


def test_a_dataset_that_changes_is_computed_anew() -> None:
    """Its items are read to know that; only the model doesn't run where they are the same."""
    shift = [0.0]
    data = Items(lambda i: noise(5)[i] + shift[0])
    model = small()
    f = petl.features(model, data)
    assert data.reads <= 5 + 1  # the first call reads it once, and looks at an image before
    shift[0] = 1.0
    other = petl.features(model, data)
    assert not other.cached and not torch.equal(other.x, f.x)
    assert petl.features(model, data).cached


@pytest.mark.deep
def test_a_folder_keeps_them_for_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    f = petl.features(small(), labelled(), blocks=True, inputs=True, cache=tmp_path / "kept")
    monkeypatch.setattr(kept_features, "SESSION", kept_features.SessionKeep())
    model = small()
    with Counted(model) as counted:
        again = petl.features(model, labelled(), blocks=True, inputs=True, cache=tmp_path / "kept")
    assert counted.images == 7  # a hook is part of what features depend on
    again = petl.features(small(), labelled(), blocks=True, inputs=True, cache=str(tmp_path / "kept"))
    assert again.cached and torch.equal(again.x, f.x)
    assert list(again.blocks or {}) == list(f.blocks or {})
    assert all(torch.equal(again.blocks[name], table) for name, table in (f.blocks or {}).items())  # type: ignore[index]
    assert again.inputs is not None and f.inputs is not None and torch.equal(again.inputs, f.inputs)
    for damaged in (tmp_path / "kept").rglob("features.npy"):
        damaged.write_bytes(damaged.read_bytes()[:-3])
    assert torch.equal(petl.features(small(), labelled(), cache=tmp_path / "kept").x, f.x)
    with pytest.raises(petl.StateError, match="can't be kept"):
        petl.features(
            small(), labelled(), cache=tmp_path / "kept" / next((tmp_path / "kept").iterdir()).name / "about.json"
        )


def test_the_limit_of_what_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    model = small()
    petl.features(model, noise(), cache_limit=1e-7)
    assert "aren't kept" in caplog.text
    assert not petl.features(model, noise(), cache_limit=1e-7).cached


def test_blocks_and_inputs() -> None:
    model, images = small("test_vit2"), noise()
    f = petl.features(model, images, blocks=True, inputs=4)
    assert list(f.blocks or {}) == [f"blocks.{i}" for i in range(8)]
    x = model.eval()._pos_embed(model.patch_embed(images))
    with torch.no_grad():
        x = model.blocks[0](model.norm_pre(x))
    assert torch.allclose(f.blocks["blocks.0"], x.mean(1), atol=1e-6)  # type: ignore[index]
    assert torch.equal(f.inputs, torch.nn.functional.adaptive_avg_pool2d(images, 4))  # type: ignore[arg-type]
    maps = petl.features(small(), images, blocks=True).blocks
    assert [table.shape for table in (maps or {}).values()] == [(7, 32), (7, 48), (7, 192), (7, 96)]


def test_inputs_of_a_folder_are_before_the_normalisation(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "grey").mkdir()
    Image.new("RGB", (50, 50), (51, 102, 204)).save(tmp_path / "grey" / "a.png")
    f = petl.features(small(), tmp_path / "grey", inputs=True)
    assert f.inputs is not None and f.inputs.shape == (1, 3, 8, 8)
    assert torch.allclose(f.inputs.mean((0, 2, 3)), torch.tensor([0.2, 0.4, 0.8]), atol=1e-5)


class Heads(nn.Module):
    """A trunk with two classifiers, which returns a tuple; ``way`` is how they are used."""

    def __init__(self, way: str):
        super().__init__()
        torch.manual_seed(0)
        self.way, self.trunk, self.fc, self.aux = way, nn.Conv2d(3, 8, 5, 4), nn.Linear(8, 3), nn.Linear(8, 3)
        self.norm, self.normed = nn.LayerNorm(8), weight_norm(nn.Linear(8, 3, bias=False))
        self.conv, self.both = nn.Conv2d(8, 3, 1), nn.ModuleList([nn.Linear(8, 3), nn.Linear(4, 3)])

    def forward(self, images: Tensor) -> Any:
        x = self.trunk(images)
        v = x.mean((2, 3))
        if self.way == "conv":
            return self.conv(v[:, :, None, None]).flatten(1), v
        if self.way == "map":
            return self.conv(x).mean((2, 3))
        if self.way == "unused":
            return nn.functional.linear(v, self.fc.weight)
        if self.way == "twice":
            return self.fc(v), self.fc(v + 1)
        if self.way == "list":
            return self.both[0](v) + self.both[1](v[:, :4])
        if self.way == "chain":
            return self.normed(self.norm(v))
        if self.way == "keyword":
            return self.fc(input=v)
        return {"logits": self.fc(v), "aux": self.aux(v + 1)}


@pytest.mark.parametrize(
    ("way", "head"),
    [
        ("conv", "conv"),
        ("map", "conv"),
        ("keyword", ["fc"]),
        ("dict", "fc"),
        ("dict", ("fc", "aux")),
        ("conv", "fc"),
        ("list", "both"),
    ],
)
def test_other_models_by_the_names_of_their_heads(way: str, head: Any) -> None:
    model = Heads(way)
    v = model.trunk(noise()).mean((2, 3)).detach()
    if head == "fc" and way == "conv":
        with pytest.raises(petl.SiteError, match="doesn't call fc in its forward"):
            petl.features(model, noise(), head=head)
        return
    wanted = v + 0.5 if head == ("fc", "aux") else torch.cat([v, v[:, :4]], 1) if way == "list" else v
    wanted = nn.functional.layer_norm(v, (8,)) if way == "chain" else wanted
    assert torch.allclose(petl.features(model, noise(), head=head).x, wanted, atol=1e-6)


def test_where_petl_cannot_know() -> None:
    with pytest.raises(petl.SiteError, match=r"name it: head='\w+', or pass head=False"):
        petl.features(Heads("dict"), noise())
    with pytest.raises(petl.SiteError, match="near names: fc"):
        petl.features(Heads("dict"), noise(), head="fcc")
    with pytest.raises(petl.SiteError, match="runs 2 times"):
        petl.features(Heads("twice"), noise(), head="fc")
    with pytest.raises(petl.SiteError, match="returns a tensor"):
        petl.features(nn.Conv2d(3, 4, 3), noise(), head=False)
    with pytest.raises(petl.MethodError, match="head=3"):
        petl.features(small(), noise(), head=3)  # type: ignore[arg-type]


def test_distilled_and_towers() -> None:
    """Two classifiers give the mean that timm gives without them; a tower's projection is its classifier."""
    distilled = small("deit_tiny_distilled_patch16_224", img_size=64, depth=1)
    assert torch.equal(petl.features(distilled, noise()).x, before_classifier(distilled, noise()))
    tower = small("vit_base_patch32_clip_224", img_size=64, depth=1, embed_dim=64, num_heads=2, num_classes=512)
    assert petl.features(tower, noise()).x.shape == (7, 64)
    assert tower(noise()).shape == (7, 512)


@pytest.mark.deep
@pytest.mark.parametrize(
    "name", ["levit_128s", "crossvit_tiny_240", "volo_d1_224", "tnt_s_patch16_224", "inception_v3"]
)
def test_x_is_timms_own(name: str) -> None:
    """Norms in two classifiers, classifiers of two widths, a classifier of tokens beside that of images, auxiliary outputs."""
    model = small(name)
    images = torch.randn(2, *petl.data.pipeline(model)["input_size"], generator=torch.Generator().manual_seed(0))
    f = petl.features(model, images, blocks=True, cache=False)
    assert torch.equal(f.x, before_classifier(model, images))
    model.reset_classifier(0)
    assert torch.equal(petl.features(model, images, cache=False).x, f.x)
    assert len(f.blocks or {}) > 2


@pytest.mark.deep
def test_data_of_every_kind(tmp_path: Path) -> None:
    model, images = small(), noise()

    class Batches:
        def __iter__(self) -> Iterator[Tensor]:
            return iter(images.split(4))

        def __len__(self) -> int:
            return 2

    wanted = petl.features(model, images).x
    unlabelled: list[Any] = [
        images.numpy(),
        TensorDataset(images),
        list(images),
        list(images.split(4)),
        Batches(),
        Items(lambda i: images[i], 7),
        Items(lambda i: (images[i],), 7),
        DataLoader(TensorDataset(images), batch_size=2),
    ]
    for data in unlabelled:
        f = petl.features(model, data)
        assert f.y is None and f.classes == [] and torch.allclose(f.x, wanted, atol=1e-5)
    for keys in ("pixels", ("pixels",)):
        assert petl.features(model, Items(lambda i: {"pixels": images[i], "id": i}, 7), keys=keys).y is None
    numbers = petl.features(model, Items(lambda i: (images[i], i / 2), 7))
    assert numbers.y is not None and numbers.y.dtype == torch.float32 and numbers.y[3] == 1.5
    several = petl.features(model, TensorDataset(images, torch.ones(7, 3)))
    assert several.y is not None and several.y.shape == (7, 3)
    shuffled = petl.features(model, DataLoader(TensorDataset(images, torch.arange(7)), batch_size=2, shuffle=True))
    assert shuffled.y is not None and torch.allclose(shuffled.x, wanted[shuffled.y], atol=1e-5)


def test_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = small(pretrained_cfg_overlay={"input_size": (3, 64, 64)})
    for split, count in (("train", 3), ("val", 2)):
        for number, name in enumerate(("cat", "dog")):
            pictures(tmp_path / "pets" / split / name, count, seed=number)
    f = petl.features(model, tmp_path / "pets")
    assert len(f) == 4 and f.classes == ["cat", "dog"] and f.y is not None and f.y.tolist() == [0, 0, 1, 1]
    assert next(Path(file).parts[-3:] for file in f.files or []) == ("val", "cat", "0.png")
    assert len(petl.features(model, tmp_path / "pets", split="train")) == 6
    (tmp_path / "pets" / "val" / "cat" / "bad.png").write_bytes(b"no image")
    data = (tmp_path / "pets" / "val" / "cat" / "0.png").read_bytes()
    (tmp_path / "pets" / "val" / "cat" / "worse.png").write_bytes(data[:300] + b"xxxxxxxx" + data[308:])
    left = petl.features(model, tmp_path / "pets")
    assert torch.equal(left.x, f.x) and left.files == f.files
    assert sorted(Path(file).name for file in left.unreadable) == ["bad.png", "worse.png"]
    assert "Left out: 2 files that can't be read" in repr(left)
    with pytest.raises(petl.DataError, match=r"bad\.png"):
        petl.features(model, tmp_path / "pets", strict=True)
    flat = petl.features(model, pictures(tmp_path / "new", 12))
    assert flat.y is None and [Path(file).stem for file in flat.files or []] == [str(i) for i in range(12)]
    assert torch.equal(
        petl.features(model, tmp_path / "new" / "3.png").x, petl.features(model, tmp_path / "new", batch_size=1).x[3:4]
    )
    with pytest.raises(petl.DataError, match=r"no such folder or file"):
        petl.features(model, [tmp_path / "new" / "99.png"])


def test_images_with_nan_are_left_out_and_a_broken_model_is_an_error() -> None:
    images, numbers = labelled().tensors
    images[2, 0, 1, 1], images[4, 0, 0, 0] = float("nan"), float("inf")
    for data in (TensorDataset(images, numbers), images):
        f = petl.features(small(), data, blocks=True)
        assert len(f) == 5 and torch.isfinite(f.x).all() and [*f.unreadable] == ["image 2", "image 4"]
        assert f.y is None or torch.equal(f.y, numbers[[0, 1, 3, 5, 6]])
        with pytest.raises(petl.DataError, match="image 2.*image 4.*NaN or infinite"):
            petl.features(small(), data, strict=True)
    model = small()
    next(model.parameters()).data[0] = float("nan")
    with pytest.raises(petl.StateError, match="features of 7 of 7 images are NaN.*model's values are broken"):
        petl.features(model, labelled())


def test_class_numbers_follow_the_models_labels(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        pictures(tmp_path / name, 2)
    model = petl.wrap(small(), "probe", num_classes=3)
    record = petl.record(model)
    assert record is not None
    record.labels = ["fish", "dog", "cat"]
    f = petl.features(model, tmp_path)
    assert f.classes == ["fish", "dog", "cat"] and f.y is not None and f.y.tolist() == [2, 2, 1, 1]
    asked = petl.features(model, tmp_path, labels=["dog", "cat"])
    assert asked.classes == ["dog", "cat"] and asked.y is not None and asked.y.tolist() == [1, 1, 0, 0]
    record.labels = ["sun", "sea"]
    assert petl.features(model, tmp_path).classes == ["cat", "dog"]


def test_the_model_is_afterwards_as_before() -> None:
    model = petl.wrap(small(), "lora", num_classes=3).train()
    model.bn1.eval()
    before = state(model)
    modes = [module.training for module in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(labelled(), batch_size=2, shuffle=True, generator=generator)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy(), generator.get_state()
    petl.features(model, loader, blocks=True, inputs=True)
    with pytest.raises(petl.DataError):
        petl.features(model, noise()[:, :2])
    assert equal(before, state(model))
    assert modes == [module.training for module in model.modules()]
    assert flags == [p.requires_grad for p in model.parameters()]
    assert hooks == [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert (states[2] == np.random.get_state()[1]).all() and torch.equal(states[3], generator.get_state())
    assert not any(p.grad is not None for p in model.parameters())


def test_equal_calls_are_equal_bits_and_batches_only_round() -> None:
    model = small()
    draws = Items(lambda i: noise(5)[i] + torch.rand(()) + random.random() + np.random.rand())
    one, other = (petl.features(model, draws, cache=False, batch_size=2) for _ in range(2))
    assert torch.equal(one.x, other.x)
    single = petl.features(model, labelled(), batch_size=1, cache=False).x
    assert torch.allclose(single, petl.features(model, labelled(), cache=False).x, atol=1e-5)


def test_refused_settings() -> None:
    model = small()
    bad: list[dict[str, Any]] = [
        {"batch_size": 0},
        {"batch_size": True},
        {"workers": -1},
        {"cache": 3},
        {"cache": ""},
        {"cache_limit": 0},
        {"inputs": -1},
        {"inputs": "8"},
        {"split": "train"},
        {"keys": ("a", "b", "c")},
        {"precision": "fp8"},
        {"labels": "cat"},
    ]
    for options in bad:
        with pytest.raises(petl.PetlError, match=next(iter(options))):
            petl.features(model, noise(), **options)
    for data, words in (
        (3, "type int"),
        (noise()[0], r"\[N, C, H, W\]"),
        ([], "empty"),
        (noise()[:, :2], "can't take"),
    ):
        with pytest.raises(petl.DataError, match=words):
            petl.features(model, data)  # type: ignore[arg-type]
    with pytest.raises(petl.StateError, match="meta device"):
        petl.features(small().to("meta"), noise())
    with pytest.raises(petl.DataError, match="label -1"):
        petl.features(model, TensorDataset(noise(), torch.arange(7) - 1))
    with pytest.raises(petl.DataError, match=r"label 6 for 2 classes \(cat, dog\)"):
        petl.features(model, TensorDataset(noise(), torch.arange(7)), labels=["cat", "dog"])
    with pytest.raises(petl.DataError, match="can't be put into a batch: tuple of object, int"):
        petl.features(model, Items(lambda i: (object(), i)))
    mixed = [(noise(2), torch.arange(2)), noise(2)]
    with pytest.raises(petl.DataError, match="some batches have labels"):
        petl.features(model, mixed)


def test_it_prints_as_sentences_and_goes_into_json() -> None:
    f = petl.features(small(), labelled(), blocks=True, inputs=True)
    assert repr(f).startswith("Features of 7 images, 96 numbers each: what the classifier of test_resnet takes")
    assert "3 classes (0, 1, 2) with 2 to 3 images each." in repr(f)
    values = json.loads(json.dumps(f.to_json()))
    assert values["images"] == 7 and values["width"] == 96 and values["per_class"] == {"0": 3, "1": 2, "2": 2}
    assert values["inputs"] == [3, 8, 8] and len(values["blocks"]) == 4
