"""TIFFs of many bands and bits, and deep PNGs: every band and bit arrives, or the message counts what is in the file."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import petl
from petl.data.damage import why_unreadable
from petl.errors import DataError
from tests.support.data import plain

tifffile = pytest.importorskip("tifffile")
CHANCE = np.random.default_rng(0)
SENTINEL = CHANCE.integers(0, 10000, (8, 8, 13), dtype=np.uint16)  # 13 bands of reflectances
RGBN = CHANCE.integers(0, 256, (8, 8, 4), dtype=np.uint8)  # RGB and near infrared
DEEP = CHANCE.integers(0, 65536, (8, 8, 3), dtype=np.uint16)
GRAY = {"photometric": "minisblack", "planarconfig": "contig"}
NIR = {"photometric": "rgb", "extrasamples": ["unspecified"]}


def expected(array: np.ndarray, top: float) -> torch.Tensor:
    """[H, W, k] as the model takes it."""
    return torch.from_numpy(array.transpose(2, 0, 1).astype(np.float32)) / top


@pytest.mark.parametrize(
    ("array", "options", "top"),
    [
        (SENTINEL, GRAY, 65535),
        (SENTINEL, {**GRAY, "compression": "zlib", "predictor": True}, 65535),
        (SENTINEL.repeat(4, 0).repeat(4, 1)[:32, :32], {**GRAY, "tile": (16, 16)}, 65535),
        (SENTINEL, {**GRAY, "bigtiff": True}, 65535),
        (SENTINEL, {**GRAY, "byteorder": ">"}, 65535),
        (RGBN, NIR, 255),
        (RGBN, GRAY, 255),
        (RGBN[..., :2], GRAY, 255),
        (DEEP, {"photometric": "rgb"}, 65535),
        (SENTINEL[..., :5].astype(np.float32), GRAY, 1),
    ],
)
def test_every_band_and_bit_arrives(tmp_path: Path, array: np.ndarray, options: dict[str, Any], top: float) -> None:
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    config = {**plain(array.shape[-1]), "input_size": (array.shape[-1], *array.shape[:2])}
    assert why_unreadable(tmp_path / "a.tif") == ""
    torch.testing.assert_close(petl.data.image(tmp_path / "a.tif", config), expected(array, top))


def test_lzw_as_gdal_writes_it(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    tifffile.imwrite(tmp_path / "a.tif", SENTINEL, **GRAY, compression="lzw")
    torch.testing.assert_close(petl.data.image(tmp_path / "a.tif", plain(13)), expected(SENTINEL, 65535))


@pytest.mark.parametrize("separate", [True, False])
def test_bands_one_after_the_other(tmp_path: Path, separate: bool) -> None:
    """In planes, or as pages; eight by eight by thirteen leaves no doubt about the axes, the tags say them."""
    options = {"planarconfig": "separate"} if separate else {}
    tifffile.imwrite(tmp_path / "a.tif", SENTINEL.transpose(2, 0, 1), photometric="minisblack", **options)
    torch.testing.assert_close(petl.data.image(tmp_path / "a.tif", plain(13)), expected(SENTINEL, 65535))


def test_the_axes_come_from_the_file(tmp_path: Path) -> None:
    """Four bands of 4 x 4: an array of this shape would be a riddle."""
    tifffile.imwrite(tmp_path / "a.tif", RGBN[:4, :4], **NIR)
    config = {**plain(4), "input_size": (4, 4, 4)}
    torch.testing.assert_close(petl.data.image(tmp_path / "a.tif", config), expected(RGBN[:4, :4], 255))


def test_twelve_bits_reach_one(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    scan = CHANCE.integers(0, 4096, (8, 8), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", scan, bitspersample=12)
    torch.testing.assert_close(petl.data.image(tmp_path / "a.tif", plain(1)), expected(scan[..., None], 4095))
    bands = CHANCE.integers(0, 4096, (8, 8, 4), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", bands, bitspersample=12, **GRAY)
    torch.testing.assert_close(petl.data.image(tmp_path / "a.tif", plain(4)), expected(bands, 4095))


@pytest.mark.parametrize("kind", [NIR, GRAY])
def test_the_message_counts_the_bands_of_the_file(tmp_path: Path, kind: dict[str, Any]) -> None:
    tifffile.imwrite(tmp_path / "a.tif", RGBN, **kind)
    with pytest.raises(DataError, match=r"a\.tif: the image has 4 channels, the model takes 3 channels"):
        petl.data.image(tmp_path / "a.tif", plain(3))


def test_transparency_is_no_band_of_a_photograph(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", np.concatenate([DEEP, DEEP[..., :1]], -1), photometric="rgb", extrasamples=["unassalpha"]
    )
    torch.testing.assert_close(petl.data.image(tmp_path / "a.tif", plain(3)), expected(DEEP, 65535))


def test_pages_that_are_no_bands(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.stack([SENTINEL] * 2), **GRAY)
    with pytest.raises(DataError, match=r"a\.tif: .*a TIFF of .* 2, Y 8, X 8, S 13; expected one image"):
        petl.data.image(tmp_path / "a.tif", plain(13))


def test_truncated_files_are_seen(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", SENTINEL, **GRAY)
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: len(data) // 2])
    assert why_unreadable(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: "):
        petl.data.image(tmp_path / "a.tif", plain(13))


def test_without_tifffile_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", SENTINEL, **GRAY)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(DataError, match=r"needs tifffile, which is not installed: pip install 'petl-vision\[tiff\]'"):
        petl.data.image(tmp_path / "a.tif", plain(13))
    Image.fromarray(RGBN[..., :3]).save(tmp_path / "b.tif")
    assert petl.data.image(tmp_path / "b.tif", plain(3)).shape == (3, 8, 8)


def deep_png(array: np.ndarray) -> bytes:
    """[H, W, k] of 16 bits as a PNG, which PIL can't write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width, k = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    head = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[k], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_colour_pngs_keep_sixteen_bits(tmp_path: Path) -> None:
    assert Image.open(io.BytesIO(deep_png(DEEP))).mode == "RGB"  # what PIL leaves of it
    (tmp_path / "a.png").write_bytes(deep_png(DEEP))
    assert torch.equal(petl.data.image(tmp_path / "a.png", plain(3)), expected(DEEP, 65535))
    (tmp_path / "b.png").write_bytes(deep_png(np.concatenate([DEEP, DEEP[..., :1]], -1)))
    assert torch.equal(petl.data.image(tmp_path / "b.png", plain(3)), expected(DEEP, 65535))
    assert petl.data.image(tmp_path / "b.png", plain(4)).shape == (4, 8, 8)
