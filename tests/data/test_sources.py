"""Real files on disk, read back as the model gets them: exact numbers, class order, splits, order and errors."""

from __future__ import annotations

import itertools
import pickle
import random
import tarfile
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
from petl.data.decoding import Unreadable
from petl.data.transforms import Transform
from petl.errors import DataError
from petl.wrapping.lookup import record
from petl.wrapping.wrap import wrap
from tests.support.data import plain

IMG_EXTENSIONS = get_img_extensions()
RAMP = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000  # 0 to 63000: 8 bits can't hold it


def picture(seed: int = 0, size: int = 8, mode: str = "RGB") -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(seed).integers(0, 256, (size, size, bands), dtype=np.uint8)
    return Image.fromarray(values.squeeze(-1) if bands == 1 else values, mode=mode)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """folder(cat=3, dog=2) makes class folders with that many small PNGs."""
    counter = itertools.count()

    def make(where: str = "pets", **classes: int) -> Path:
        for name, count in classes.items():
            (tmp_path / where / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                picture(next(counter)).save(tmp_path / where / name / f"{i}.png")
        return tmp_path / where

    return make


# ------------------------------------------------------------------------------------------------ pipeline


def test_pipeline_is_timms_for_three_channels() -> None:
    model = timm.create_model("test_vit")
    assert data.pipeline(model) == timm.data.resolve_model_data_config(model)


@pytest.mark.parametrize(
    ("k", "mean"),
    [(1, (0.449,)), (2, (0.449, 0.449)), (4, (0.485, 0.456, 0.406, 0.449)), (5, (0.485, 0.456, 0.406, 0.449, 0.449))],
)
def test_mean_of_other_channels(k: int, mean: tuple[float, ...]) -> None:
    model = wrap(
        timm.create_model("test_resnet", pretrained_cfg_overlay={"mean": (0.485, 0.456, 0.406)}), "input", in_chans=k
    )
    found = data.pipeline(model)
    assert found["input_size"] == (k, 160, 160)
    assert found["mean"] == pytest.approx(mean)
    assert len(found["std"]) == k


def test_pipeline_knows_the_size_that_the_model_was_built_for() -> None:
    model = timm.create_model("test_vit", img_size=96)
    assert data.pipeline(model)["input_size"] == (3, 96, 96)  # timm's own config says 160
    assert data.pipeline(model, size=(64, 32))["input_size"] == (3, 64, 32)
    model(torch.zeros(1, *data.pipeline(model)["input_size"]))


def test_pipeline_of_a_delta_comes_first() -> None:
    model = wrap(timm.create_model("test_resnet"), "probe")
    stored = {"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0], "interpolation": "bilinear"}
    record(model).pipeline = {**stored, "crop_pct": 1.0, "crop_mode": "center"}  # type: ignore[union-attr]
    assert data.pipeline(model)["mean"] == (0.1, 0.2, 0.3)
    assert data.pipeline(model)["input_size"] == (3, 32, 32)


# ------------------------------------------------------------------------------------------------ single images


@pytest.mark.parametrize("name", ["ramp.png", "ramp.tif", "ramp.tiff", "ramp.npy"])
def test_sixteen_bits_arrive_whole(tmp_path: Path, name: str) -> None:
    found = data.image(save(tmp_path / name, RAMP), plain(1))
    assert found.dtype == torch.float32
    assert found.shape == (1, 8, 8)
    assert torch.equal(found[0], torch.from_numpy(RAMP.astype(np.float32)) / 65535)


def test_sixteen_bits_are_normalised_and_repeated_for_colour(tmp_path: Path) -> None:
    found = data.image(save(tmp_path / "a.png", RAMP), plain(3, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)))
    gray = torch.from_numpy(RAMP.astype(np.float32)) / 65535
    for channel, mean, std in zip(found, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), strict=True):
        torch.testing.assert_close(channel, (gray - mean) / std)


@pytest.mark.parametrize(
    ("array", "top"),
    [
        (np.arange(64, dtype=np.uint8).reshape(8, 8), 255),
        (RAMP.astype(np.float32), 1),
        (RAMP.astype(np.int32) * 30000, 2**31 - 1),
    ],
)
def test_tiff_by_the_range_of_its_type(tmp_path: Path, array: np.ndarray, top: int) -> None:
    found = data.image(save(tmp_path / "a.tif", array), plain(1))
    torch.testing.assert_close(found[0], torch.from_numpy(array.astype(np.float32)) / top)


@pytest.mark.parametrize(
    ("dtype", "top"), [("uint8", 255), (">u2", 65535), ("int16", 32767), ("float64", 1), ("float16", 1), ("bool", 1)]
)
def test_npy_by_the_range_of_its_type(tmp_path: Path, dtype: str, top: int) -> None:
    array = np.arange(8 * 8 * 5).reshape(8, 8, 5).astype(dtype)
    found = data.image(save(tmp_path / "a.npy", array), plain(5))
    torch.testing.assert_close(found, torch.from_numpy(array.astype(np.float32).transpose(2, 0, 1)) / top)


def test_sixteen_bits_in_thirty_two() -> None:
    """What older releases of Pillow make of a 16-bit PNG: mode "I" without a word on the range."""
    found = Transform(plain(1))(Image.fromarray(RAMP.astype(np.int32)))
    assert torch.equal(found[0], torch.from_numpy(RAMP.astype(np.float32)) / 65535)


def test_npy_layouts(tmp_path: Path) -> None:
    cube = np.random.default_rng(0).random((4, 8, 8), dtype=np.float32)
    first = data.image(save(tmp_path / "first.npy", cube), plain(4))
    last = data.image(save(tmp_path / "last.npy", cube.transpose(1, 2, 0)), plain(4))
    assert torch.equal(first, torch.from_numpy(cube))
    assert torch.equal(first, last)


def test_colour_array_becomes_luminance(tmp_path: Path) -> None:
    cube = np.random.default_rng(0).random((8, 8, 3), dtype=np.float32)
    found = data.image(save(tmp_path / "a.npy", cube), plain(1))
    np.testing.assert_allclose(found[0], cube @ [0.299, 0.587, 0.114], atol=2e-4)


def test_pages_of_a_tiff_are_channels(tmp_path: Path) -> None:
    pages = [RAMP + i for i in range(5)]
    first, *rest = (Image.fromarray(page) for page in pages)
    first.save(tmp_path / "a.tif", save_all=True, append_images=rest)
    found = data.image(tmp_path / "a.tif", plain(5))
    assert torch.equal(found, torch.from_numpy(np.stack(pages).astype(np.float32)) / 65535)
    with pytest.raises(DataError, match=r"a\.tif: it has 5 gray pages, the model takes 1 channel;"):
        data.image(tmp_path / "a.tif", plain(1))


def test_bands_of_a_picture_are_channels(tmp_path: Path) -> None:
    picture(mode="RGBA").save(tmp_path / "a.png")
    expected = torch.from_numpy(np.array(picture(mode="RGBA"))).permute(2, 0, 1) / 255
    assert torch.equal(data.image(tmp_path / "a.png", plain(4)), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1"])
@pytest.mark.parametrize("k", [1, 3])
def test_ordinary_pictures_go_timms_way(tmp_path: Path, mode: str, k: int) -> None:
    original = picture(size=40).convert(mode)
    original.save(tmp_path / "a.png")
    config = plain(k, 24, crop_pct=0.9, interpolation="bicubic")
    expected = create_transform(**config)(original.convert("L" if k == 1 else "RGB"))
    assert torch.equal(data.image(tmp_path / "a.png", config), expected)


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_tensors_are_resized_and_cropped_as_pictures_are(tmp_path: Path, mode: str, interpolation: str) -> None:
    original = np.array(picture(size=64).resize((40, 60), Image.Resampling.BILINEAR))
    config = plain(3, 24, crop_pct=0.8, interpolation=interpolation, crop_mode=mode)
    deep = data.image(save(tmp_path / "a.npy", original), config)
    pil = data.image(save(tmp_path / "a.png", original), config)
    torch.testing.assert_close(deep, pil, atol=0.06 if interpolation == "lanczos" else 0.02, rtol=0)


@pytest.mark.parametrize(
    ("array", "k", "message"),
    [
        (np.zeros((8, 8, 4), np.uint8), 3, r"array \[8, 8, 4\].*takes 3 channels: expected \[3, H, W\], \[H, W, 3\]"),
        (np.zeros((8, 8), np.uint8), 5, "has 1 channel, the model takes 5 channels"),
        (np.zeros((4, 8, 4), np.uint8), 4, r"array \[4, 8, 4\] could be \[4, H, W\] or \[H, W, 4\]"),
        (np.zeros((2, 3, 8, 8), np.uint8), 3, r"array \[2, 3, 8, 8\]"),
        (np.zeros((8, 8), np.int64), 1, "array of int64.*save uint8"),
        (np.zeros((8, 8), np.complex64), 1, "array of complex64"),
        (np.full((8, 8), np.nan, np.float32), 1, "NaN"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, array: np.ndarray, k: int, message: str) -> None:
    path = save(tmp_path / "odd.npy", array)
    with pytest.raises(DataError, match=f"odd.npy: .*{message}"):
        data.image(path, plain(k))


def test_pictures_that_do_not_fit(tmp_path: Path) -> None:
    picture().save(tmp_path / "rgb.png")
    with pytest.raises(DataError, match=r"rgb\.png: the image has 3 channels, the model takes 4 channels"):
        data.image(tmp_path / "rgb.png", plain(4))


@pytest.mark.parametrize("content", [b"", b"no image", b"\x93NUMPY\x01\x00garbage"])
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(Unreadable, match=r"bad\.png: "):
        data.image(tmp_path / "bad.png", plain(3))


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"code": "runs"}], dtype=object), allow_pickle=True)
    with pytest.raises(Unreadable, match="allow_pickle=False"):
        data.image(tmp_path / "a.npy", plain(1))


def test_truncated_and_missing_files(tmp_path: Path) -> None:
    picture(size=64).save(tmp_path / "a.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:700])
    with pytest.raises(Unreadable, match=r"half\.jpg: it can't be read: .*truncated"):
        data.image(tmp_path / "half.jpg", plain(3))
    with pytest.raises(DataError, match=r"none\.jpg: No such file"):
        data.image(tmp_path / "none.jpg", plain(3))


# ------------------------------------------------------------------------------------------------ data sets


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


def make_tar(root: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        archive.add(root, arcname=".")
    return path


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


# ------------------------------------------------------------------------------------------------ damaged files


def damaged(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).write_bytes((root / name).read_bytes()[:60])
    return root


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


# ------------------------------------------------------------------------------------------------ order


def epoch_of(loader, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    data.set_epoch(loader, epoch)
    images, targets = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(targets)


def test_order_and_augmentation_follow_seed_and_epoch(folder: Callable[..., Path]) -> None:
    train = data.dataset(folder(cat=5, dog=6), plain(3), training=True)
    loaders = [
        data.loader(train, batch_size=4, training=True, seed=seed, workers=w) for seed, w in ((1, 0), (1, 2), (2, 0))
    ]
    random.seed(0)
    ours = [epoch_of(loaders[0], e) for e in (0, 1, 2)]
    random.seed(99), torch.manual_seed(99)
    # another state of the global generators, worker processes, and straight to the last epoch
    for batch, again in zip(ours[2], epoch_of(loaders[1], 2), strict=True):
        assert torch.equal(batch, again)
    assert not torch.equal(ours[0][0], ours[1][0])
    assert not torch.equal(ours[0][0], epoch_of(loaders[2], 0)[0])
    assert sorted(ours[0][1].tolist()) == [0] * 5 + [1] * 6


def test_each_picture_has_its_own_augmentation(tmp_path: Path) -> None:
    for i in range(8):
        (tmp_path / "cat").mkdir(exist_ok=True)
        picture(7, size=16).save(tmp_path / "cat" / f"{i}.png")
    train = data.dataset(tmp_path, plain(3), training=True)
    images, _ = epoch_of(data.loader(train, batch_size=8, training=True), 0)
    assert len({i.numpy().tobytes() for i in images}) == 8


def test_loading_leaves_the_global_generators_alone(folder: Callable[..., Path]) -> None:
    train = data.dataset(folder(cat=4), plain(3), training=True, augment={"auto_augment": "rand-m9"})
    loader = data.loader(train, batch_size=2, training=True)
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    samples = [loader.dataset[(i, 3)] for i in range(4)]  # the loader itself draws its workers' seed from torch
    assert len(samples) == 4
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def test_resume_in_the_middle_under_accelerate(folder: Callable[..., Path]) -> None:
    accelerate = pytest.importorskip("accelerate")
    train = data.dataset(folder(cat=5, dog=5), plain(3), training=True)
    unbroken = data.loader(train, batch_size=3, training=True, seed=4)
    data.set_epoch(unbroken, 3)
    expected = list(unbroken)
    prepared = accelerate.Accelerator(cpu=True).prepare(data.loader(train, batch_size=3, training=True, seed=4))
    data.set_epoch(prepared, 3)
    rest = list(accelerate.skip_first_batches(prepared, 2))
    assert len(rest) == len(expected) - 2
    for (a, b), (c, d) in zip(rest, expected[2:], strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


@pytest.mark.parametrize(("count", "sizes"), [(9, [4, 4]), (10, [4, 4, 2]), (1, [1])])
def test_only_a_lonely_last_image_is_left_out_of_training(folder, count: int, sizes: list[int]) -> None:
    found = data.dataset(folder(cat=count), plain(3))
    assert [len(t) for _, t in data.loader(found, batch_size=4, training=True)] == sizes
    assert sum(len(t) for _, t in data.loader(found, batch_size=4)) == count


def test_loader_takes_any_dataset_and_keeps_its_classes(folder: Callable[..., Path]) -> None:
    pairs = torch.utils.data.TensorDataset(torch.arange(8.0), torch.arange(8))
    loader = data.loader(pairs, batch_size=8, training=True)
    orders = [epoch_of(loader, e)[1].tolist() for e in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    images = data.loader(data.dataset(folder(cat=2), plain(3)), batch_size=1, training=True)
    assert images.dataset.classes == ["cat"]  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="batch_size=0"):
        data.loader(pairs, batch_size=0)


def test_datasets_can_be_pickled_for_workers(folder: Callable[..., Path], tmp_path: Path) -> None:
    tar = make_tar(folder(cat=2), tmp_path / "a.tar")
    for source in (tmp_path / "pets", tar):
        found = data.dataset(source, plain(3))
        first = found[0]
        assert torch.equal(pickle.loads(pickle.dumps(found))[0][0], first[0])


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
