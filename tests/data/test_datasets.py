"""Folders, tars and other libraries' datasets, with and without damaged files."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_transform
from timm.data.readers.img_extensions import get_img_extensions

import petl.data as data
from petl.errors import DataError
from tests.support.data import plain
from tests.support.image_files import RAMP, damaged, make_tar, picture, save

IMG_EXTENSIONS = get_img_extensions()


def test_folder_of_classes(folder: Callable[..., Path]) -> None:
    found = data.dataset(folder(dog=2, cat=1, ant10=1, ant9=1), plain(3))
    assert found.classes == ["ant9", "ant10", "cat", "dog"]  # timm's natural order
    assert found.targets.tolist() == [target for _, target in found]  # type: ignore[union-attr]
    assert len(found) == 5
    assert found[-1][1] == found[4][1]
    with pytest.raises(IndexError):
        found[5]


def test_folder_gives_what_timm_gives(folder: Callable[..., Path]) -> None:
    root, config = folder(cat=3, dog=2), plain(3, 6, interpolation="bicubic")
    theirs = create_dataset("", root=str(root), split="train")
    theirs.transform = create_transform(**config)
    for (ours, target), (image, number) in zip(data.dataset(root, config), theirs, strict=True):
        assert torch.equal(ours, image)
        assert target == number


@pytest.mark.parametrize("name", ["a.tif", "a.npy", "a.TIFF", "a.bmp"])
def test_folder_finds_more_than_timm(tmp_path: Path, name: str) -> None:
    (tmp_path / "cell").mkdir()
    save(tmp_path / "cell" / name, RAMP if name != "a.bmp" else RAMP.astype(np.uint8))
    found = data.dataset(tmp_path, plain(1))
    assert len(found) == 1
    assert found[0][0].shape == (1, 8, 8)
    assert get_img_extensions() == IMG_EXTENSIONS  # timm's list is as it was for the rest of the program


@pytest.mark.parametrize("split", ["train", "val", "test", "validation", "eval", "training"])
@pytest.mark.parametrize("names", [("train", "val", "test"), ("training", "validation"), ("train", "eval", "valid")])
def test_splits_are_found_as_timm_finds_them(folder: Callable[..., Path], split: str, names: tuple[str, ...]) -> None:
    for i, name in enumerate(names):
        root = folder(f"d/{name}", cat=i + 1, dog=1).parent
    theirs = create_dataset("", root=str(root), split=split, search_split=True)
    if theirs.reader.root == str(root):  # timm takes all splits together
        with pytest.raises(DataError, match=f"no folder for split '{split}'"):
            data.dataset(root, plain(3), split=split)
    else:
        assert len(data.dataset(root, plain(3), split=split)) == len(theirs)


def test_splits_lists_what_is_there(folder: Callable[..., Path]) -> None:
    root = folder("d/training", cat=1).parent
    folder("d/valid", cat=1)
    assert data.splits(root) == {"train": root / "training", "val": root / "valid"}
    assert len(data.dataset(root, plain(3), split=None)) == 2


def test_missing_split_says_what_is_there(folder: Callable[..., Path]) -> None:
    root = folder(cat=1, dog=2)
    with pytest.raises(DataError, match=r"'val' .*found 2 folders \(cat, dog\) and 3 files \(3 \.png\); .*holdout"):
        data.dataset(root, plain(3), split="val")


def test_train_is_not_everything_when_only_val_is_there(folder: Callable[..., Path]) -> None:
    root = folder("d/val", cat=1).parent
    with pytest.raises(DataError, match="no folder for split 'train'"):
        data.dataset(root, plain(3))


def test_folders_that_cannot_be_used(tmp_path: Path, folder: Callable[..., Path]) -> None:
    root = folder(cat=1)
    with pytest.raises(DataError, match=r"no such folder or file: .*/pest; near names: pets"):
        data.dataset(tmp_path / "pest", plain(3))
    (tmp_path / "text" / "cat").mkdir(parents=True)
    (tmp_path / "text" / "cat" / "a.txt").write_text("no image")
    with pytest.raises(DataError, match=r"no images .*found 1 folders \(cat\) and 1 files \(1 \.txt\)"):
        data.dataset(tmp_path / "text", plain(3))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no images .*found 0 folders and 0 files"):
        data.dataset(tmp_path / "empty", plain(3))
    picture().save(root / "stray.png")
    with pytest.raises(DataError, match=r"images outside of class folders: found 1 folders \(cat\)"):
        data.dataset(root, plain(3))
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"found a file of 2 bytes, not a \.tar"):
        data.dataset(tmp_path / "a.zip", plain(3))


def test_classes_fix_the_numbers(folder: Callable[..., Path]) -> None:
    train = data.dataset(folder("d/train", ant=1, cat=1, dog=1).parent, plain(3))
    root = folder("d/val", cat=1, dog=1).parent
    alone = data.dataset(root, plain(3), split="val")
    same = data.dataset(root, plain(3), split="val", classes=train.classes)
    assert (alone[0][1], same[0][1], same.classes) == (0, 1, ["ant", "cat", "dog"])
    assert same.targets.tolist() == [1, 2]  # type: ignore[union-attr]
    folder("d/val", cow=1)
    with pytest.raises(DataError, match=r"class 'cow' is not among the 3 expected classes \(ant, cat, dog\)"):
        data.dataset(root, plain(3), split="val", classes=train.classes)


@pytest.mark.parametrize("workers", [0, 2])
def test_tar_is_as_its_folder(folder: Callable[..., Path], tmp_path: Path, workers: int) -> None:
    root = folder(dog=3, cat=2)
    save(root / "cat" / "9.npy", np.full((8, 8, 3), 7, np.uint8))
    tar = data.dataset(make_tar(root, tmp_path / "pets.tar"), plain(3))
    assert tar.classes == ["cat", "dog"]
    tar[0]  # an archive that was open before the workers start must not be shared with them
    whole, there = (
        [torch.cat(part) for part in zip(*data.loader(d, batch_size=2, workers=w), strict=True)]
        for d, w in ((data.dataset(root, plain(3)), 0), (tar, workers))
    )
    assert all(torch.equal(a, b) for a, b in zip(whole, there, strict=True))


def test_bad_tars(tmp_path: Path) -> None:
    (tmp_path / "junk.tar").write_bytes(b"no archive at all" * 100)
    with pytest.raises(DataError, match=r"junk\.tar has no images .*found a file of 1700 bytes"):
        data.dataset(tmp_path / "junk.tar", plain(3))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no images"):
        data.dataset(make_tar(tmp_path / "empty", tmp_path / "empty.tar"), plain(3))


def test_torchvision_by_timms_name(folder: Callable[..., Path], tmp_path: Path) -> None:
    root = folder("d/train", dog=1, cat=2).parent
    found = data.dataset("torch/image_folder", plain(1), root=root, classes=["cat", "cow", "dog"])
    assert (found.classes, found.targets.tolist()) == (["cat", "cow", "dog"], [0, 0, 2])  # type: ignore[union-attr]
    assert found[0][0].shape == (1, 8, 8)
    with pytest.raises(DataError, match=r"torch/cifar10 .*not found or corrupted.*download=True"):
        data.dataset("torch/cifar10", plain(3), root=tmp_path)
    with pytest.raises(DataError, match="Unknown torchvision dataset cifar11"):
        data.dataset("torch/cifar11", plain(3))


@pytest.mark.parametrize(
    ("name", "package", "options"), [("hfds/pets", "datasets", {}), ("wds/pets", "webdataset", {"num_samples": 1})]
)
def test_readers_without_their_package(tmp_path: Path, name: str, package: str, options: dict) -> None:
    try:
        __import__(package)
    except ImportError:
        with pytest.raises(DataError, match=f"^{name} .*{package}"):
            data.dataset(name, plain(3), root=tmp_path, **options)
    else:
        pytest.skip(f"{package} is installed")


def test_streams() -> None:
    """timm's stream over the simplest reader: pictures go the same way, and names have to be given."""
    stream = timm.data.IterableImageDataset("", reader=[(Image.fromarray(RAMP), 1), (picture(mode="L"), 0)])
    with pytest.raises(DataError, match=r"doesn't tell its class names; pass classes="):
        data.Stream(stream, plain(1))
    found = data.Stream(stream, plain(1), classes=["ill", "well"])
    ((images, targets),) = data.loader(found, batch_size=2)
    assert torch.equal(images[0, 0], torch.from_numpy(RAMP.astype(np.float32)) / 65535)
    assert targets.tolist() == [1, 0]
    with pytest.raises(DataError, match="a stream can't be split"):
        data.holdout(found)


def test_training_steps_over_damaged_files_and_says_so(folder: Callable[..., Path], caplog) -> None:
    root = damaged(folder(cat=2, dog=1), "cat/0.png", "cat/1.png")
    train = data.dataset(root, plain(3), training=True, augment={"no_aug": True})
    image, target = train[0]
    assert (target, image.shape) == (1, (3, 8, 8))
    assert [r.getMessage() for r in caplog.records if "cat/0.png" in r.getMessage() and "skipped" in r.getMessage()]


def test_evaluation_names_the_damaged_file(folder: Callable[..., Path]) -> None:
    root = damaged(folder(cat=2, dog=1), "cat/1.png")
    with pytest.raises(DataError, match=r"cat/1\.png: it can't be read"):
        list(data.dataset(root, plain(3)))


def test_training_ends_when_nothing_can_be_read(folder: Callable[..., Path]) -> None:
    root = damaged(folder(cat=2), "cat/0.png", "cat/1.png")
    with pytest.raises(DataError, match=r"cat/\d\.png"):
        data.dataset(root, plain(3), training=True)[0]


def test_pictures_that_do_not_fit_end_training_at_once(folder: Callable[..., Path]) -> None:
    root = folder(cat=1, dog=1)
    with pytest.raises(DataError, match=r"0\.png: the image has 3 channels, the model takes 4"):
        data.dataset(root, plain(4), training=True)[0]


def test_a_file_that_vanished(folder: Callable[..., Path]) -> None:
    root = folder(cat=1)
    found = data.dataset(root, plain(3))
    (root / "cat" / "0.png").unlink()
    with pytest.raises(DataError, match=r"cat/0\.png: .*No such file"):
        found[0]


def test_datasets_can_be_pickled_for_workers(folder: Callable[..., Path], tmp_path: Path) -> None:
    tar = make_tar(folder(cat=2), tmp_path / "a.tar")
    for source in (tmp_path / "pets", tar):
        found = data.dataset(source, plain(3))
        first = found[0]
        assert torch.equal(pickle.loads(pickle.dumps(found))[0][0], first[0])
