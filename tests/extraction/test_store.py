"""Training on features of the frozen part: the same numbers, never a stale one, within its bounds, and with a word when not."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

import petl
from petl.errors import PetlError, StateError
from petl.extraction.cut_points import cuts, record_calls, restless
from petl.extraction.dataset_identity import contents, unsteady
from petl.extraction.store import Store
from petl.extraction.tail import upper
from tests.support.compare import gap, state
from tests.support.data import CLASSES, SIZE, Noisy
from tests.support.data import noise_pairs as pairs

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

BATCH = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))


def built(name: str = "test_vit", **options: Any) -> nn.Module:
    """The same model each time, with nothing at zero."""
    torch.manual_seed(3)
    size = {"img_size": SIZE} if "vit" in name else {}
    model = timm.create_model(name, num_classes=CLASSES, **size, **options)
    with torch.no_grad():
        for p in model.parameters():
            if not p.any():
                p.normal_(std=0.1)
    return model


def late(model: nn.Module) -> nn.Module:
    """LoRA in the last block."""
    block = petl.find(model, "block")[-1].name
    names = [site.name for site in petl.find(model, ["linear", "conv"]) if site.name.startswith(f"{block}.")]
    return petl.wrap(model, petl.LoRA(where=names, rank=2))


def late_adapter(model: nn.Module) -> nn.Module:
    return petl.wrap(model, petl.Adapter(where=[petl.find(model, "block")[-1].name]))


def partial(model: nn.Module) -> nn.Module:
    return petl.wrap(model, "partial", last=1)


def late_bn(model: nn.Module) -> nn.Module:
    return petl.wrap(model, petl.BN(where=["layer4.*.bn*"], stats="keep"))


def adapting(model: nn.Module) -> nn.Module:
    return petl.wrap(model, "partial", last=1, stats="adapt")


def fit(model: nn.Module, data: Any = None, val: Any = None, **options: Any) -> Any:
    given = {"epochs": 3, "lr": 1e-2, "batch_size": 8, "progress": False, **options}
    return petl.fit(model, pairs() if data is None else data, val, **given)


# The same numbers

ROADS: list[Any] = [
    (partial, "test_vit", "blocks.5"),
    (late, "test_vit", "blocks.5"),
    (late_adapter, "test_vit", "blocks.5.adapter"),
    (partial, "test_resnet", "layer4.0"),
    (adapting, "test_resnet", "layer4.0"),
    (late, "test_resnet", "layer4.0"),
    (partial, "test_efficientnet", "blocks.4.0.conv_pw"),
    (partial, "test_convnext", "stages.3.blocks.1"),
    (late_bn, "test_resnet", "layer4.0"),
    (late, "test_nfnet", "stages.3.0.act1"),
]


@pytest.mark.sweep(3)
@pytest.mark.parametrize(("method", "name", "start"), ROADS, ids=lambda v: getattr(v, "__name__", v))
def test_features_change_nothing(method: Callable[..., nn.Module], name: str, start: str) -> None:
    """Up to the last bits: the frozen part's kernels round differently for batches of another composition."""
    runs = []
    for cache in (False, None):
        model = method(built(name))
        before = state(model)
        history = fit(model, val=pairs(9, seed=1), cache=cache)
        runs.append((state(model), history))
        assert gap(before, runs[-1][0]) > 5e-3
    assert gap(runs[0][0], runs[1][0]) < 2e-4
    losses = [[(row["train_loss"], row["loss"]) for row in history.rows] for _, history in runs]
    assert np.allclose(*losses, atol=2e-4)
    assert runs[0][1].road == ""
    assert f"from {start} on" in runs[1][1].road
    assert "20 images" in runs[1][1].road
    assert runs[1][1].road in repr(runs[1][1])


def test_the_frozen_part_runs_once_per_image() -> None:
    """Between the epochs the model is whole."""
    model, seen, answers = partial(built()), [], []
    block: Any = model.blocks[0]  # type: ignore[index]

    def counted(x: Tensor, **options: Any) -> Tensor:  # a hook would move the cut
        seen.append(len(x))
        return type(block).forward(block, x, **options)

    block.forward = counted
    fit(model, on_epoch=lambda row: answers.append(model(BATCH)))
    real = sum(seen)
    assert real - 3 * 2 <= 20 + 16  # one pass; the looks before it
    assert all(answer.isfinite().all() for answer in answers)
    assert vars(block)["forward"] is counted and "forward" not in vars(model.blocks[1])  # type: ignore[index]
    assert not model.blocks[5]._forward_pre_hooks


@pytest.mark.sweep(1)
@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"ema": 0.9, "keep": "best"}, {"accumulate": 2}])
def test_with_other_options(options: dict[str, Any]) -> None:
    runs = []
    for cache in (False, True):
        model = late(built())
        fit(model, val=pairs(9, seed=1), cache=cache, **options)
        runs.append(state(model))
    assert gap(*runs) < (5e-2 if "precision" in options else 2e-4)


def test_gradient_checkpointing_and_features() -> None:
    runs = []
    for cache in (False, True):
        model = partial(built())
        model.set_grad_checkpointing(True)
        fit(model, cache=cache)
        runs.append(state(model))
    assert gap(*runs) < 2e-4


def test_dropout_above_is_the_same() -> None:
    """The same random numbers in the same order: the frozen part takes none."""
    runs = []
    for cache in (False, True):
        model = partial(built())
        model.blocks[5].mlp.drop1.p = 0.5
        fit(model, cache=cache)
        runs.append(state(model))
    assert gap(*runs) < 2e-4


def test_resuming_is_bit_equal(tmp_path: Path) -> None:
    def stop(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    whole, broken, resumed = (partial(built()) for _ in range(3))
    fit(whole, epochs=4, checkpoint=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(broken, epochs=4, checkpoint=tmp_path / "broken", on_epoch=stop)
    history = fit(resumed, epochs=4, checkpoint=tmp_path / "broken", resume=True)
    assert len(history) == 4
    assert gap(state(whole), state(resumed)) == 0


def test_what_is_measured_is_what_the_model_does() -> None:
    model, val = partial(built("test_resnet")), pairs(9, seed=1)
    history = fit(model, val=val)
    assert petl.evaluate(model, val, batch_size=8).loss == pytest.approx(history.rows[-1]["loss"], abs=1e-5)


# What is cut off, and what isn't


@pytest.mark.parametrize(("method", "name", "start"), ROADS, ids=lambda v: getattr(v, "__name__", v))
def test_nothing_below_builds_a_graph(method: Callable[..., nn.Module], name: str, start: str) -> None:
    """Also in training mode, with modules that are held still or in grafted models."""
    model = method(built(name))
    below = {module for cut in cuts(model, BATCH) if cut.name == start for module in cut.below}
    graphs: list[bool] = []
    for module in below:
        module.register_forward_hook(lambda m, args, out: graphs.append(out.requires_grad))
    assert model.train()(BATCH).requires_grad
    assert len(graphs) >= 5
    assert not any(graphs)


class Skip(nn.Module):
    """What ``early`` gives also goes straight to the head."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.middle, self.late = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(8, CLASSES)
        self.num_classes = CLASSES

    def forward(self, x: Tensor) -> Tensor:
        early = self.early(x)
        return self.head(torch.cat([self.late(self.middle(early)), early], 1).mean((2, 3)))


def test_a_second_way_past_the_cut_is_seen() -> None:
    """The cut goes where one tensor is enough: before the two ways part, not where training begins."""
    model = Skip().requires_grad_(False)
    model.late.requires_grad_(True)
    points = cuts(model, BATCH)
    assert [point.name for point in points] == ["late", "middle"]
    assert upper(model, points, BATCH) is None
    history = fit(model, cache=None)
    assert "more than one tensor" in history.road
    with pytest.raises(StateError, match="cache=True: .*more than one tensor"):
        fit(model, cache=True)


def test_watching_changes_nothing() -> None:
    model = adapting(built("test_resnet"))
    before, random = state(model), torch.get_rng_state()
    modes = [module.training for module in model.train().modules()]
    net = upper(model, cuts(model, BATCH), BATCH)
    assert net
    assert gap(before, state(model)) == 0
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.modules())
    assert not record_calls(model, BATCH).calls[-1].returned(7).isfinite().any()


def test_moving_statistics_below_are_seen() -> None:
    model = built("test_resnet").requires_grad_(False)
    model.layer4.requires_grad_(True)
    assert restless(model) >= {model.bn1, model.layer3[0].bn1}
    history = fit(model)
    assert "BatchNorm" in history.road
    assert "other values in training" in history.road


# Where it isn't done, it says why


def picture_folder(path: Path) -> Path:
    for number in range(6):
        place = path / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(255, size=(SIZE, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place)
    return path


def test_random_images(tmp_path: Path) -> None:
    assert "can't see whether Noisy" in fit(partial(built()), Noisy(0.1)).road
    with pytest.raises(StateError, match="Noisy gives other images when it is read again"):
        fit(partial(built()), Noisy(0.1), cache=True)
    assert "from blocks.5 on" in fit(partial(built()), Noisy(0.0), cache=True).road
    torch.manual_seed(0)
    model = petl.wrap(timm.create_model("test_vit", img_size=SIZE), "partial", num_classes=2)
    assert "augmented at random" in fit(model, picture_folder(tmp_path), epochs=1).road
    with pytest.raises(StateError, match="augmented at random"):
        fit(model, tmp_path, cache=True)


class Rarely(Noisy):
    """Draws for one image only, and that changes nothing."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index == 11:
            torch.rand(())
        return self.data[index]


@pytest.mark.parametrize("workers", [0, 1])
def test_no_random_number_escapes(workers: int) -> None:
    with pytest.raises(StateError, match="image 11 of Rarely draws random numbers"):
        fit(partial(built()), Rarely(0.0), cache=True, workers=workers)


@pytest.mark.deep
def test_hooks_see_every_forward() -> None:
    model, seen, marks = partial(built()), [], []
    model.blocks[1].register_forward_hook(lambda module, args, out: seen.append(bool(out.isnan().any())))  # type: ignore
    history = fit(model, epochs=3, on_epoch=lambda _: marks.append(len(seen)))
    assert "from blocks.1 on" in history.road  # and no later
    assert marks[0] + 2 * 3 <= len(seen) and not any(seen[marks[0] :])


def test_unfreezing_below_is_an_error() -> None:
    model = partial(built())
    with pytest.raises(StateError, match="pass cache=False to unfreeze"):
        fit(model, epochs=2, on_epoch=lambda _: model.requires_grad_(True))
    assert torch.isfinite(model(pairs().tensors[0])).all()


def test_attention_pools_can_be_cut_off() -> None:
    """torch's own counter of operations fails on them."""
    model = petl.wrap(timm.create_model("test_vit3", img_size=SIZE), "partial", num_classes=CLASSES)
    assert "from attn_pool on" in fit(model, epochs=2).road


REASONS: list[Any] = [
    (partial, {}, {"mixup": 0.2}, "mixup and cutmix"),
    (partial, {"pos_drop_rate": 0.2}, {}, "Dropout in the frozen part"),
    (partial, {}, {"data": DataLoader(pairs(), batch_size=8)}, "pass its dataset"),
    (partial, {}, {"cache_limit": 1e-6}, "more than cache_limit=1e-06"),
    (lambda model: petl.wrap(model, "lora"), {}, {}, ""),
    (partial, {}, {"views": 0}, ""),
]


@pytest.mark.parametrize(("method", "model_options", "options", "reason"), REASONS, ids=[r[-1] for r in REASONS])
def test_the_reason_is_told(method: Any, model_options: Any, options: dict[str, Any], reason: str) -> None:
    history = fit(method(built(**model_options)), epochs=1, **options)
    assert reason in history.road
    assert bool(history.road) == bool(reason)
    if "pos_drop_rate" in model_options:
        return  # the patches are before it, and who insists gets these
    error = StateError if "views" not in options else PetlError
    with pytest.raises(error, match=reason or "trains from its first layers|only .* of a forward|views=0"):
        fit(method(built(**model_options)), epochs=1, cache=True, **options)


def test_the_limit_is_a_positive_number() -> None:
    with pytest.raises(PetlError, match="cache_limit=0"):
        fit(partial(built()), cache_limit=0)


# Kept in a folder: found again, never stale


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_kept_folder_is_used_again(tmp_path: Path) -> None:
    val, first, second = pairs(9, seed=1), late(built()), late(built())
    one = fit(first, val=val, cache=tmp_path)
    assert len(entries(tmp_path)) == 2
    seen: list[int] = []
    second.register_forward_pre_hook(lambda module, args: seen.append(int(args[0].isfinite().all()) * len(args[0])))
    again = fit(second, val=val, cache=tmp_path)
    assert "(found there)" in again.road
    assert "(found there)" not in one.road
    assert sum(seen) < 20
    assert gap(state(first), state(second)) == 0
    assert [row["loss"] for row in one.rows] == [row["loss"] for row in again.rows]


def changed_base(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        model.blocks[2].mlp.fc1.weight[0, 0] += 1e-3
    return model


def rewritten(model: nn.Module) -> nn.Module:
    """With another forward in a block below the cut."""
    block: Any = model.blocks[1]  # type: ignore[index]
    block.forward = lambda x, **options: type(block).forward(block, x, **options) * 2
    return model


STALE: list[Any] = [
    (lambda: partial(changed_base(built())), {}),
    (lambda: partial(built()), {"data": TensorDataset(pairs().tensors[0] + 1e-6, pairs().tensors[1])}),
    (lambda: partial(built()), {"data": TensorDataset(pairs().tensors[0], pairs().tensors[1].flip(0))}),
    (lambda: partial(built()), {"data": Subset(pairs(), range(19))}),
    (lambda: partial(built()), {"precision": "bf16"}),
    (lambda: partial(built()), {"batch_size": 5}),
    (lambda: petl.wrap(built(), "partial", last=2), {}),
    (lambda: partial(built(global_pool="avg")), {}),
    (lambda: partial(built(num_heads=4)), {}),  # the same weights
    (lambda: partial(built(act_layer="relu")), {}),
    (lambda: rewritten(partial(built())), {}),
]


@pytest.mark.deep
@pytest.mark.parametrize(("make", "options"), STALE)
def test_what_has_changed_is_computed_anew(make: Any, options: dict[str, Any], tmp_path: Path) -> None:
    fit(partial(built()), epochs=1, cache=tmp_path)
    fit(partial(built()), epochs=1, cache=tmp_path, seed=5, lr=1.0)
    assert len(entries(tmp_path)) == 1
    cached, plain = make(), make()
    history = fit(cached, epochs=1, cache=tmp_path, **options)
    fit(plain, epochs=1, cache=False, **options)
    assert "(found there)" not in history.road
    assert len(entries(tmp_path)) == 2
    assert gap(state(cached), state(plain)) < (5e-2 if "precision" in options else 2e-4)


def test_a_model_that_gives_something_else_is_seen(tmp_path: Path) -> None:
    """By what no fingerprint holds: here a number that a function reads when it runs."""
    factor = [1.0]

    def scaling(model: nn.Module) -> nn.Module:
        block: Any = model.blocks[1]  # type: ignore[index]
        block.forward = lambda x, **options: type(block).forward(block, x, **options) * factor[0]
        return model

    fit(scaling(partial(built())), epochs=1, cache=tmp_path)
    assert "(found there)" in fit(scaling(partial(built())), epochs=1, cache=tmp_path).road
    factor[0] = 1.5
    cached, plain = scaling(partial(built())), scaling(partial(built()))
    assert "(found there)" not in fit(cached, epochs=1, cache=tmp_path).road
    fit(plain, epochs=1, cache=False)
    assert gap(state(cached), state(plain)) < 2e-4


class Brighter(Subset):
    """A subset that does more than a Subset does."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, target = super().__getitem__(index)
        return image + torch.randn(1), target

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


def test_what_is_known_of_a_class_is_not_of_its_children() -> None:
    data = pairs()
    assert unsteady(Brighter(data, range(9))).startswith("petl can't see whether Brighter")
    assert not unsteady(ConcatDataset([Subset(data, range(9)), data]))
    assert contents(ConcatDataset([data, data])) != contents(ConcatDataset([data]))
    assert "can't see whether Brighter" in fit(partial(built()), Brighter(data, range(9)), epochs=1).road


@pytest.mark.parametrize("kept", [True, False])
def test_a_disk_that_is_too_small(kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, it is an error; else the images themselves are trained on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        model, plain = partial(built()), partial(built())
        if kept:
            with pytest.raises(StateError, match="features can't be written"):
                fit(model, epochs=1, cache=tmp_path)
            return
        assert "can't be written" in fit(model, val=pairs(9, seed=1), epochs=1).road
        fit(plain, val=pairs(9, seed=1), epochs=1, cache=False)
        assert gap(state(model), state(plain)) == 0
        assert not entries(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_features_of_other_images_than_asked_for_are_not_kept(tmp_path: Path) -> None:
    """A file whose middle is damaged: the next image takes its place, and the file may be whole again next time."""
    folder, kept = picture_folder(tmp_path / "images"), tmp_path / "kept"
    place = folder / "a" / "2.png"
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 0xFF
    place.write_bytes(data)
    model = petl.wrap(timm.create_model("test_vit", img_size=SIZE), "partial", last=1, num_classes=2)
    images = petl.data.dataset(folder, petl.data.pipeline(model), split=None)
    assert "from blocks.5 on" in fit(model, images, epochs=1, cache=kept).road
    assert images.unreadable == [str(place)]
    assert not entries(kept)


def test_a_changed_file_is_another_data_set(tmp_path: Path) -> None:
    folder = picture_folder(tmp_path / "images")
    model = built()
    data = petl.data.dataset(folder, petl.data.pipeline(model), split=None)
    before = contents(data)
    assert contents(petl.data.dataset(folder, petl.data.pipeline(model), split=None)) == before
    place = folder / "a" / "0.png"
    times = place.stat()
    os.utime(place, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert contents(data) != before
    smaller = petl.data.pipeline(model, size=32)
    assert contents(petl.data.dataset(folder, smaller, split=None)) not in (before, contents(data))
    assert not unsteady(data)
    assert unsteady(petl.data.dataset(folder, smaller, split=None, training=True))


def test_other_datasets_are_read_through() -> None:
    class Read(Dataset):
        def __init__(self, shift: float):
            self.data, self.shift = pairs(), shift

        def __len__(self) -> int:
            return len(self.data)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            return self.data[index][0] + self.shift * (index == 17), int(self.data[index][1])

    assert contents(Read(0.0)) == contents(Read(0.0))
    assert contents(Read(0.0)) != contents(Read(1e-3))


@pytest.mark.sweep(1)
@pytest.mark.parametrize("spoil", ["features.npy", "targets.npy", "about.json"])
def test_a_damaged_entry_is_computed_anew(spoil: str, tmp_path: Path) -> None:
    whole, again = partial(built()), partial(built())
    fit(whole, epochs=1, cache=tmp_path)
    place = next(tmp_path.iterdir()) / spoil
    place.write_bytes(place.read_bytes()[:-40])
    history = fit(again, epochs=1, cache=tmp_path)
    assert "(found there)" not in history.road
    assert gap(state(whole), state(again)) == 0
    assert "(found there)" in fit(partial(built()), epochs=1, cache=tmp_path).road


def test_a_folder_stays_within_its_bound(tmp_path: Path) -> None:
    """The entry that was used the longest ago goes; what isn't petl's stays."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "about.json").write_text("{}")
    part = torch.zeros(10, 25), torch.arange(10)  # 1000 bytes, and a head and labels
    for number, key in enumerate("abab"):
        store = Store(tmp_path, 4000)
        store.make_room(1000)
        store.entry({"key": key}, 10, [part])
        for path in entries(tmp_path):
            os.utime(tmp_path / path, (number, number)) if path != "mine" and store.found == 0 else None
    assert len(entries(tmp_path)) == 3
    store.make_room(2000)
    assert len(entries(tmp_path)) == 2
    with pytest.raises(StateError, match="more than cache_limit"):
        store.make_room(4001)
    assert (tmp_path / "mine" / "about.json").exists()


def test_what_will_be_used_again_stays(tmp_path: Path) -> None:
    """A bound that two runs' features don't fit into together."""
    fit(partial(built()), epochs=1, cache=tmp_path)
    before, size = entries(tmp_path), sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    history = fit(partial(built()), epochs=1, cache=tmp_path, cache_limit=size * 1.2 / 1e9)
    assert "(found there)" in history.road and entries(tmp_path) == before


def test_a_store_gives_back_the_bits(tmp_path: Path) -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.int64):
        features = torch.randn(6, 3, 2).mul(100).to(dtype)
        parts = [(features[:4], torch.arange(4)), (features[4:], torch.arange(4, 6))]
        found, targets = Store(tmp_path, 1e6).entry({"dtype": str(dtype)}, 6, parts)
        assert found.dtype == dtype
        assert torch.equal(found, features)
        assert torch.equal(targets, torch.arange(6))


def test_an_unfinished_entry_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(petl.errors.DataError, match="gave 4 images, and its length is 6"):
        Store(tmp_path, 1e6).entry({}, 6, [(torch.zeros(4, 2), torch.arange(4))])
    assert not entries(tmp_path)


def test_a_temporary_folder_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen: list[int] = []
    history = fit(partial(built()), on_epoch=lambda row: seen.append(len(entries(tmp_path))))
    assert "temporary folder" in history.road
    assert seen == [1, 1, 1]
    assert not entries(tmp_path)
    with pytest.raises(StateError):
        fit(partial(built()), cache=True, cache_limit=1e-6)
    assert not entries(tmp_path)
