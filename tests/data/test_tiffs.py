"""Geographic TIFFs: no-data values, masks, palettes, smaller copies; by tifffile, and by rasterio where that can't read them."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import petl
from petl import data
from petl.data.damage import why_unreadable
from petl.errors import DataError
from tests.support.data import plain

tifffile = pytest.importorskip("tifffile")
rasterio = pytest.importorskip("rasterio")
RNG = np.random.default_rng(0)
BANDS = RNG.integers(1, 60000, (6, 16, 16), dtype=np.uint16)


def write(path: Path, array: np.ndarray, mask: np.ndarray | None = None, palette: Any = None, **options: Any) -> Path:
    """Writes [k, H, W] as GDAL does."""
    options = {"driver": "GTiff", "count": len(array), "dtype": array.dtype, **options}
    options.update(height=array.shape[1], width=array.shape[2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it lies nowhere on earth
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **options) as file:
            file.write(array)
            if palette is not None:
                file.write_colormap(1, palette)
            if mask is not None:
                file.write_mask(mask)
    return path


def read(path: Path, channels: int, **changes: Any) -> np.ndarray:
    return data.image(path, {**plain(channels, size=16), **changes}).numpy()


@pytest.mark.parametrize("library", ["tifffile", "rasterio"])
@pytest.mark.parametrize(
    "options",
    [
        {"interleave": "band"},
        {"interleave": "pixel"},
        {"interleave": "pixel", "tiled": True, "blockxsize": 16, "blockysize": 16},
        {"BIGTIFF": "YES"},
        {"compress": "lzw", "predictor": 2},
        {"compress": "deflate", "interleave": "band"},
        {"ENDIANNESS": "BIG"},
    ],
)
def test_layouts(tmp_path: Path, options: dict[str, Any], library: str) -> None:
    path = write(tmp_path / "a.tif", BANDS, **options)
    assert why_unreadable(path) == ""
    np.testing.assert_allclose(read(path, 6, tiff=library), BANDS / 65535, atol=1e-6)
    floats = write(tmp_path / "b.tif", BANDS.astype(np.float32) / 3, **{**options, "predictor": 1})
    np.testing.assert_allclose(read(floats, 6, tiff=library), BANDS / 3, rtol=1e-6)


@pytest.mark.parametrize("library", [None, "rasterio"])
@pytest.mark.parametrize(
    ("dtype", "no_data", "scale"),
    [
        (np.uint8, 0, 255),
        (np.uint16, 0, 65535),
        (np.uint16, 65535, 65535),
        (np.int16, -9999, 32767),
        (np.float32, -9999.0, 1),
        (np.float32, float("nan"), 1),
        (np.float32, float(np.finfo(np.float32).min), 1),
    ],
)
@pytest.mark.parametrize("bands", [1, 3, 5])
def test_no_data_becomes_the_mean(
    tmp_path: Path, dtype: Any, no_data: float, scale: float, library: str | None, bands: int
) -> None:
    array = RNG.integers(1, 100, (bands, 16, 16)).astype(dtype)
    array[:, 2:5, 3:9] = no_data
    path = write(tmp_path / "a.tif", array, nodata=no_data)
    changes = {"mean": tuple(0.1 * (k + 1) for k in range(bands)), "std": (0.5,) * bands}
    found = read(path, bands, **changes, **({"tiff": library} if library else {}))
    expected = (array.astype(np.float64) / scale - np.array(changes["mean"])[:, None, None]) / 0.5
    expected[:, 2:5, 3:9] = 0
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_value_that_does_not_occur_masks_nothing(tmp_path: Path) -> None:
    for number, value in enumerate((-9999, 0.5, 1e9)):
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(
            path,
            BANDS,
            photometric="minisblack",
            planarconfig="separate",
            extratags=[(42113, "s", 0, str(value), True)],
        )
        np.testing.assert_allclose(read(path, 6), BANDS / 65535, atol=1e-6)


@pytest.mark.parametrize("library", [None, "rasterio"])
@pytest.mark.parametrize("bands", [1, 3, 6])
def test_a_mask_in_the_file(tmp_path: Path, bands: int, library: str | None) -> None:
    array = RNG.integers(1, 255, (bands, 16, 16), dtype=np.uint8)
    mask = np.full((16, 16), 255, np.uint8)
    mask[:4] = 0
    path = write(tmp_path / "a.tif", array, mask=mask)
    changes = {"mean": (0.3,) * bands, **({"tiff": library} if library else {})}
    found = read(path, bands, **changes)
    np.testing.assert_allclose(found[:, :4], 0, atol=1e-6)
    np.testing.assert_allclose(found[:, 4:], array[:, 4:] / 255 - 0.3, atol=1e-6)


def test_nothing_but_no_data(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.zeros((3, 16, 16), np.uint16), nodata=0)
    with pytest.raises(DataError, match="all are marked as having no data"):
        read(path, 3)


@pytest.mark.parametrize("bands", [1, 3, 6])
def test_smaller_copies_are_no_channels(tmp_path: Path, bands: int) -> None:
    array = RNG.integers(0, 255, (bands, 16, 16), dtype=np.uint8)
    path = write(tmp_path / "a.tif", array)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above
        with rasterio.open(path, "r+") as file:
            file.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    assert len(tifffile.TiffFile(path).pages) == 3
    np.testing.assert_allclose(read(path, bands), array / 255, atol=1e-6)
    np.testing.assert_allclose(read(path, bands, tiff="rasterio"), array / 255, atol=1e-6)


@pytest.mark.parametrize("library", [None, "tifffile", "rasterio"])
@pytest.mark.parametrize("no_data", [None, 3])
def test_a_palette(tmp_path: Path, library: str | None, no_data: int | None) -> None:
    numbers = RNG.integers(0, 4, (1, 16, 16)).astype(np.uint8)
    palette = {0: (255, 0, 0, 255), 1: (0, 255, 0, 255), 2: (10, 20, 30, 255), 3: (1, 2, 3, 255)}
    path = write(tmp_path / "a.tif", numbers, palette=palette, photometric="palette", nodata=no_data)
    found = read(path, 3, **({"tiff": library} if library else {}))
    expected = np.array([palette[i][:3] for i in range(4)])[numbers[0]].transpose(2, 0, 1) / 255
    known = np.broadcast_to(numbers[0] != no_data, expected.shape)
    np.testing.assert_allclose(found, np.where(known, expected, 0), atol=1e-3)


@pytest.mark.parametrize("library", [None, "tifffile", "rasterio"])
def test_transparency_and_white_as_zero(tmp_path: Path, library: str | None) -> None:
    choice = {"tiff": library} if library else {}
    rgba = RNG.integers(0, 255, (4, 16, 16), dtype=np.uint8)
    path = write(tmp_path / "a.tif", rgba, photometric="rgb", alpha="yes")
    np.testing.assert_allclose(read(path, 3, **choice), rgba[:3] / 255, atol=1e-6)
    np.testing.assert_allclose(read(path, 4, **choice), rgba / 255, atol=1e-6)
    gray = rgba[0]
    tifffile.imwrite(tmp_path / "b.tif", gray, photometric="miniswhite")
    np.testing.assert_allclose(read(tmp_path / "b.tif", 1, **choice)[0], (255 - gray.astype(float)) / 255, atol=1e-6)


def test_rasterio_reads_what_tifffile_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.tif", BANDS)

    def fails(*args: Any, **options: Any) -> None:
        raise ValueError("a codec is missing")

    monkeypatch.setattr(tifffile, "TiffFile", fails)
    np.testing.assert_allclose(read(path, 6), BANDS / 65535, atol=1e-6)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(
        DataError, match=r"a.tif: it can't be read: a codec is missing; rasterio is not installed: .*\[geo\]"
    ):
        read(path, 6)
    with pytest.raises(DataError, match=r"rasterio is not installed: pip install 'petl-vision\[geo\]'"):
        read(path, 6, tiff="rasterio")


@pytest.mark.parametrize("library", ["tifffile", "rasterio"])
def test_what_cannot_be_is_one_clear_error(tmp_path: Path, library: str) -> None:
    path = write(tmp_path / "a.tif", (BANDS + 1j * BANDS).astype(np.complex64))
    with pytest.raises(DataError, match="complex"):
        read(path, 6, tiff=library)
    big = write(tmp_path / "b.tif", BANDS.astype(np.uint32))
    with pytest.raises(DataError, match="uint32, whose range"):
        read(big, 6, tiff=library)
    whole = write(tmp_path / "c.tif", BANDS)
    (tmp_path / "cut.tif").write_bytes(whole.read_bytes()[:1200])
    assert why_unreadable(tmp_path / "cut.tif")
    with pytest.raises(DataError, match="cut.tif"):
        read(tmp_path / "cut.tif", 6, tiff=library)


def test_statistics_leave_out_what_has_no_data(tmp_path: Path) -> None:
    arrays = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        array = RNG.normal(300, 40, (5, 16, 16)).astype(np.float32)
        array[:, :5] = -9999
        array[1, 9:] = -9999
        arrays.append(np.where(array == -9999, np.nan, array.astype(np.float64)))
        write(tmp_path / name / "1.tif", array, nodata=-9999)
    found = data.statistics(tmp_path)
    both = np.stack(arrays, 1).reshape(5, -1)
    np.testing.assert_allclose(found.mean, np.nanmean(both, 1), rtol=1e-12)
    np.testing.assert_allclose(found.std, np.nanstd(both, 1), rtol=1e-12)


def test_statistics_are_exact_far_from_zero(tmp_path: Path) -> None:
    """Of 10^7 with a deviation of 1, sums of squares would keep no digit in float32 and few in float64."""
    parts = []
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        parts.append((1e7 + RNG.integers(-2, 3, (2, 9, 7))).astype(np.float32))
        np.save(tmp_path / name / "1.npy", parts[-1])
    whole = np.stack(parts, 1).astype(np.float64).reshape(2, -1)
    found = data.statistics(tmp_path)
    np.testing.assert_allclose(found.mean, whole.mean(1), rtol=1e-14)
    np.testing.assert_allclose(found.std, whole.std(1), rtol=1e-9)


def test_one_line_records_the_statistics(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    (tmp_path / "pets" / "a").mkdir(parents=True), (tmp_path / "pets" / "b").mkdir()
    write(tmp_path / "pets" / "a" / "1.tif", BANDS[:4], nodata=0)
    write(tmp_path / "pets" / "b" / "1.tif", BANDS[2:], nodata=0)
    model = petl.wrap(timm.create_model("test_resnet"), [petl.Input(in_chans=4), "probe"], num_classes=2)
    petl.record(model).pipeline = data.pipeline(model, size=32, statistics=tmp_path / "pets")  # type: ignore[union-attr]
    petl.fit(model, tmp_path / "pets", epochs=1, lr=1e-3, progress=False, out=tmp_path / "d.safetensors")
    header = petl.read(tmp_path / "d.safetensors")
    found = data.statistics(data.dataset(tmp_path / "pets", data.pipeline(model)))
    assert header["pipeline"]["mean"] == list(found.mean) and header["pipeline"]["std"] == list(found.std)
    assert data.pipeline(model, statistics=found)["mean"] == found.mean
    with pytest.raises(DataError, match=r"got statistics= and mean="):
        data.pipeline(model, statistics=found, mean=0.5)
    with pytest.raises(DataError, match="expected 3 numbers"):
        data.pipeline(timm.create_model("test_resnet"), statistics=found)
    with pytest.raises(DataError, match="statistics of a int|expected a folder"):
        data.pipeline(model, statistics=[3])
    assert torch.isfinite(data.image(tmp_path / "pets" / "a" / "1.tif", data.pipeline(model))).all()


@pytest.mark.parametrize("library", [None, "tifffile", "rasterio"])
def test_single_bands_of_types_that_pil_mistakes(tmp_path: Path, library: str | None) -> None:
    choice = {"tiff": library} if library else {}
    signed = RNG.integers(-100, 100, (1, 16, 16)).astype(np.int8)
    np.testing.assert_allclose(read(write(tmp_path / "a.tif", signed), 1, **choice), signed / 127, atol=1e-6)
    doubles = RNG.random((1, 16, 16))
    np.testing.assert_allclose(read(write(tmp_path / "b.tif", doubles), 1, **choice), doubles, atol=1e-6)
    with pytest.raises(DataError, match="uint32, whose range"):
        read(write(tmp_path / "c.tif", BANDS[:1].astype(np.uint32)), 1, **choice)
    halves = doubles.astype(np.float16)
    tifffile.imwrite(tmp_path / "d.tif", halves[0], photometric="minisblack")
    np.testing.assert_allclose(read(tmp_path / "d.tif", 1, **choice), halves, atol=1e-6)
    twelve = BANDS % 4096
    np.testing.assert_allclose(read(write(tmp_path / "e.tif", twelve, nbits=12), 6, **choice), twelve / 4095, atol=1e-6)
    palette = {number: (number, 50 * number, 9, 255) for number in range(4)}
    path = write(tmp_path / "f.tif", BANDS[:1] % 4, palette=palette, photometric="palette")
    seen = read(path, 3, **choice)[:, BANDS[0] % 4 == 2][:, 0]
    np.testing.assert_allclose(seen * 255, [2, 100, 9], atol=0.01)


def test_several_images_are_not_one(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", BANDS.reshape(2, 3, 16, 16), imagej=True, metadata={"axes": "TCYX"})
    with pytest.raises(DataError, match="T 2, C 3"):
        read(tmp_path / "a.tif", 3, tiff="tifffile")
    with pytest.raises(DataError, match="holds 6 rasters"):
        read(tmp_path / "a.tif", 3, tiff="rasterio")
