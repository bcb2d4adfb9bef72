"""The public functions of `petl.data`: training transforms, the images held out, what a model takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import petl.data as data
from petl.errors import DataError
from petl.wrapping.wrap import wrap
from tests.support.data import plain
from tests.support.image_files import RAMP, picture, save

# ------------------------------------------------------------------------------------------------ augmentation


@pytest.mark.parametrize("k", [1, 3, 5])
def test_training_transform_varies_and_keeps_the_shape(tmp_path: Path, k: int) -> None:
    (tmp_path / "cell").mkdir()
    save(tmp_path / "cell" / "a.npy", np.random.default_rng(0).random((16, 16, k), dtype=np.float32))
    picked = data.dataset(tmp_path, plain(k), training=True, augment={"re_prob": 0.5})
    images = [picked[0][0] for _ in range(4)]
    assert {tuple(i.shape) for i in images} == {(k, 8, 8)}
    assert not torch.equal(images[0], images[1]) or not torch.equal(images[0], images[2])


def test_training_transform_of_gray_pictures(tmp_path: Path) -> None:
    (tmp_path / "scan").mkdir()
    picture(mode="L", size=16).save(tmp_path / "scan" / "a.png")
    options = {"auto_augment": "rand-m9", "re_prob": 0.5, "vflip": 0.5}
    picked = data.dataset(tmp_path, plain(1), training=True, augment=options)
    assert all(picked[0][0].shape == (1, 8, 8) for _ in range(20))


def test_augmentation_options(folder: Callable[..., Path], tmp_path: Path) -> None:
    flipped = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "color_jitter": None, "hflip": 1.0}
    found = data.dataset(folder(cat=1), plain(3), training=True, augment=flipped)
    expected = torch.from_numpy(np.array(picture(0))).permute(2, 0, 1) / 255
    assert torch.equal(found[0][0], expected.flip(-1))
    with pytest.raises(DataError, match="not 'hflop'; near names: hflip"):
        data.dataset(tmp_path / "pets", plain(3), training=True, augment={"hflop": 1.0})


def test_colour_augmentation_of_deep_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cell").mkdir()
    save(tmp_path / "cell" / "a.tif", RAMP)
    found = data.dataset(tmp_path, plain(1), training=True, augment={"auto_augment": "rand-m9"})
    with pytest.raises(DataError, match=r"a\.tif: auto_augment works on 8-bit images"):
        found[0]


# ------------------------------------------------------------------------------------------------ holdout


def test_holdout_is_stratified_and_disjoint(folder: Callable[..., Path]) -> None:
    whole = data.dataset(folder(ant=20, bee=10, cow=2, dog=1), plain(3), training=True, augment={"hflip": 0.0})
    train, val = data.holdout(whole, 0.3, seed=1)
    assert np.bincount(val.targets, minlength=4).tolist() == [6, 3, 1, 0]
    assert np.bincount(train.targets, minlength=4).tolist() == [14, 7, 1, 1]
    names = [{part.filename(i) for i in range(len(part))} for part in (train, val)]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == len(whole)
    assert train.classes == val.classes == whole.classes
    assert (train.training, val.training, whole.training) == (True, False, True)
    again = data.holdout(whole, 0.3, seed=1)[1]
    assert again.indices.tolist() == val.indices.tolist()
    assert data.holdout(whole, 0.3, seed=2)[1].indices.tolist() != val.indices.tolist()


def test_holdout_transforms(folder: Callable[..., Path]) -> None:
    whole = data.dataset(folder(cat=4, dog=4), plain(3))
    train, val = data.holdout(whole, 0.5)
    for position, index in enumerate(val.indices):
        assert torch.equal(val[position][0], whole[int(index)][0])  # the evaluation transform
        assert val[position][1] == whole[int(index)][1]
    assert any(not torch.equal(train[0][0], train[0][0]) for _ in range(5))  # augmented
    with pytest.raises(DataError, match=r"fraction=1\.5"):
        data.holdout(whole, 1.5)


def test_a_model_takes_what_the_data_gives(tmp_path: Path) -> None:
    """The whole way: 16-bit scans to a wrapped one-channel model."""
    for name in ("healthy", "ill"):
        (tmp_path / name).mkdir()
        for i in range(2):
            save(tmp_path / name / f"{i}.png", RAMP.repeat(8, 0).repeat(8, 1) // (i + 1))
    model = wrap(timm.create_model("test_resnet", num_classes=2), "input", in_chans=1)
    found = data.dataset(tmp_path, data.pipeline(model, size=64), training=True)
    images, targets = next(iter(data.loader(found, batch_size=4, training=True)))
    assert images.shape == (4, 1, 64, 64)
    assert model(images).shape == (4, 2)
    assert sorted(targets.tolist()) == [0, 0, 1, 1]
