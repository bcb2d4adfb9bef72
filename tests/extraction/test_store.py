"""Features that are kept in a folder: found again, never stale, within their bound."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

import petl
from petl.errors import StateError
from petl.extraction.store import Store
from tests.support.compare import gap, state
from tests.support.cut_models import built, entries, late, partial, train
from tests.support.data import noise_pairs
from tests.support.disk import small_files

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def test_a_kept_folder_is_used_again(tmp_path: Path) -> None:
    val, first, second = noise_pairs(9, seed=1), late(built()), late(built())
    one = train(first, val=val, cache=tmp_path)
    assert len(entries(tmp_path)) == 2
    seen: list[int] = []
    second.register_forward_pre_hook(lambda module, args: seen.append(int(args[0].isfinite().all()) * len(args[0])))
    again = train(second, val=val, cache=tmp_path)
    assert "(found there)" in again.features
    assert "(found there)" not in one.features
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
    (lambda: partial(built()), {"data": TensorDataset(noise_pairs().tensors[0] + 1e-6, noise_pairs().tensors[1])}),
    (lambda: partial(built()), {"data": TensorDataset(noise_pairs().tensors[0], noise_pairs().tensors[1].flip(0))}),
    (lambda: partial(built()), {"data": Subset(noise_pairs(), range(19))}),
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
    train(partial(built()), epochs=1, cache=tmp_path)
    train(partial(built()), epochs=1, cache=tmp_path, seed=5, lr=1.0)
    assert len(entries(tmp_path)) == 1
    cached, plain = make(), make()
    history = train(cached, epochs=1, cache=tmp_path, **options)
    train(plain, epochs=1, cache=False, **options)
    assert "(found there)" not in history.features
    assert len(entries(tmp_path)) == 2
    assert gap(state(cached), state(plain)) < (5e-2 if "precision" in options else 2e-4)


@pytest.mark.deep
def test_a_model_that_gives_something_else_is_seen(tmp_path: Path) -> None:
    """By what no fingerprint holds: here a number that a function reads when it runs."""
    factor = [1.0]

    def scaling(model: nn.Module) -> nn.Module:
        block: Any = model.blocks[1]  # type: ignore[index]
        block.forward = lambda x, **options: type(block).forward(block, x, **options) * factor[0]
        return model

    train(scaling(partial(built())), epochs=1, cache=tmp_path)
    assert "(found there)" in train(scaling(partial(built())), epochs=1, cache=tmp_path).features
    factor[0] = 1.5
    cached, plain = scaling(partial(built())), scaling(partial(built()))
    assert "(found there)" not in train(cached, epochs=1, cache=tmp_path).features
    train(plain, epochs=1, cache=False)
    assert gap(state(cached), state(plain)) < 2e-4


@pytest.mark.parametrize("kept", [True, False])
def test_a_disk_that_is_too_small(kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, it is an error; else the images themselves are trained on."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with small_files(5000):
        model, plain = partial(built()), partial(built())
        if kept:
            with pytest.raises(StateError, match="features can't be written"):
                train(model, epochs=1, cache=tmp_path)
            return
        assert "can't be written" in train(model, val=noise_pairs(9, seed=1), epochs=1).features
        train(plain, val=noise_pairs(9, seed=1), epochs=1, cache=False)
        assert gap(state(model), state(plain)) == 0
        assert not entries(tmp_path)


@pytest.mark.sweep(1)
@pytest.mark.parametrize("spoil", ["features.npy", "targets.npy", "about.json"])
def test_a_damaged_entry_is_computed_anew(spoil: str, tmp_path: Path) -> None:
    whole, again = partial(built()), partial(built())
    train(whole, epochs=1, cache=tmp_path)
    place = next(tmp_path.iterdir()) / spoil
    place.write_bytes(place.read_bytes()[:-40])
    history = train(again, epochs=1, cache=tmp_path)
    assert "(found there)" not in history.features
    assert gap(state(whole), state(again)) == 0
    assert "(found there)" in train(partial(built()), epochs=1, cache=tmp_path).features


def test_a_folder_stays_within_its_bound(tmp_path: Path) -> None:
    """The entry that was used the longest ago goes; what isn't petl's stays."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "about.json").write_text("{}")
    part = torch.zeros(10, 25), torch.arange(10)  # 1000 bytes, and a head and labels
    for number, key in enumerate("abab"):
        store = Store(tmp_path, 4000)
        store.evict(1000)
        store.get_or_compute({"key": key}, 10, [part])
        for path in entries(tmp_path):
            os.utime(tmp_path / path, (number, number)) if path != "mine" and store.reused == 0 else None
    assert len(entries(tmp_path)) == 3
    store.evict(2000)
    assert len(entries(tmp_path)) == 2
    with pytest.raises(StateError, match="more than cache_limit"):
        store.evict(4001)
    assert (tmp_path / "mine" / "about.json").exists()


def test_what_will_be_used_again_stays(tmp_path: Path) -> None:
    """A bound that two runs' features don't fit into together."""
    train(partial(built()), epochs=1, cache=tmp_path)
    before, size = entries(tmp_path), sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    history = train(partial(built()), epochs=1, cache=tmp_path, cache_limit=size * 1.2 / 1e9)
    assert "(found there)" in history.features and entries(tmp_path) == before


def test_a_store_gives_back_the_bits(tmp_path: Path) -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.int64):
        features = torch.randn(6, 3, 2).mul(100).to(dtype)
        parts = [(features[:4], torch.arange(4)), (features[4:], torch.arange(4, 6))]
        found, targets = Store(tmp_path, 1e6).get_or_compute({"dtype": str(dtype)}, 6, parts)
        assert found.dtype == dtype
        assert torch.equal(found, features)
        assert torch.equal(targets, torch.arange(6))


def test_an_unfinished_entry_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(petl.DataError, match="gave 4 images, and its length is 6"):
        Store(tmp_path, 1e6).get_or_compute({}, 6, [(torch.zeros(4, 2), torch.arange(4))])
    assert not entries(tmp_path)


def test_a_temporary_folder_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen: list[int] = []
    history = train(partial(built()), on_epoch=lambda row: seen.append(len(entries(tmp_path))))
    assert "temporary folder" in history.features
    assert seen == [1, 1, 1]
    assert not entries(tmp_path)
    with pytest.raises(StateError):
        train(partial(built()), cache=True, cache_limit=1e-6)
    assert not entries(tmp_path)
