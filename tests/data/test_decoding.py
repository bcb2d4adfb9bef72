"""Images of any bit depth, type and number of bands, read whole or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

import petl.data as data
from petl.data.decoding import Unreadable
from petl.data.transforms import Transform
from petl.errors import DataError
from tests.support.data import plain
from tests.support.image_files import RAMP, picture, save


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
