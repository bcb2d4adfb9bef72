"""DICOM: rescaled, windowed, the right way round, one frame, in colour; what petl can't read is one clear error."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import petl
from petl import data
from petl.data.damage import why_unreadable
from petl.data.dicoms import through_window
from petl.errors import DataError
from tests.support.data import plain

pydicom = pytest.importorskip("pydicom")
STORED = (np.arange(64, dtype=np.uint16).reshape(8, 8) * 60).astype(np.uint16)  # 0 to 3780, of 12 bits
CT = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": [40, 400], "WindowWidth": [400, 2000]}


def write(path: Path, pixels: np.ndarray, bits: int | None = None, syntax: str | None = None, **tags: Any) -> Path:
    """Writes [H, W], [frames, H, W] or [H, W, 3] with these tags."""
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = (
        syntax or ExplicitVRLittleEndian,
        SecondaryCaptureImageStorage,
    )
    meta.MediaStorageSOPInstanceUID = generate_uid()
    file = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    colour = pixels.shape[-1] == 3
    file.SamplesPerPixel, file.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        file.PlanarConfiguration = 0
    elif pixels.ndim == 3:
        file.NumberOfFrames = len(pixels)
    file.Rows, file.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    file.BitsAllocated = 8 * pixels.dtype.itemsize
    file.BitsStored = bits or file.BitsAllocated
    file.HighBit, file.PixelRepresentation = file.BitsStored - 1, int(pixels.dtype.kind == "i")
    file.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)
    return path


def read(path: Path, channels: int = 1, **choices: Any) -> np.ndarray:
    return data.image(path, plain(channels, **choices)).numpy()


def by_pydicom(path: Path) -> np.ndarray:
    """The values that pydicom's own functions make, as 0..1 of their range."""
    file = pydicom.dcmread(path)
    values = pydicom.pixels.apply_voi_lut(pydicom.pixels.apply_modality_lut(file.pixel_array, file), file)
    slope, intercept = float(file.get("RescaleSlope", 1)), float(file.get("RescaleIntercept", 0))
    least, largest = intercept, (2**file.BitsStored - 1) * slope + intercept
    return (values - least) / (largest - least)


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_rescaled_and_through_the_first_window(tmp_path: Path, function: str | None) -> None:
    tags = {**CT, **({"VOILUTFunction": function} if function else {})}
    path = write(tmp_path / "a.dcm", STORED, 12, **tags)
    assert why_unreadable(path) == ""
    np.testing.assert_allclose(read(path)[0], by_pydicom(path), atol=1e-6)


def test_a_window_of_ones_own(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", STORED, 12, **CT)
    values = STORED.astype(float) - 1024
    np.testing.assert_allclose(read(path, window=(600, 1600))[0], through_window(values, 600, 1600), atol=1e-6)
    np.testing.assert_allclose(read(path, window=[40.0, 400.0])[0], read(path)[0], atol=1e-6)  # as JSON has it
    np.testing.assert_allclose(read(path, window="full")[0], STORED / 4095, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "bits", "least", "largest"),
    [(np.uint8, 8, 0, 255), (np.uint16, 12, 0, 4095), (np.uint16, 16, 0, 65535), (np.int16, 16, -32768, 32767)],
)
def test_without_a_window_all_bits_count(tmp_path: Path, dtype: Any, bits: int, least: int, largest: int) -> None:
    pixels = np.linspace(least, largest, 64).astype(dtype).reshape(8, 8)
    found = read(write(tmp_path / "a.dcm", pixels, bits))[0]
    np.testing.assert_allclose(found, (pixels.astype(float) - least) / (largest - least), atol=1e-6)


def test_monochrome1_is_the_other_way_round(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", STORED, 12, **CT)
    other = write(tmp_path / "b.dcm", STORED, 12, **CT, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(read(other), 1 - read(path), atol=1e-6)


def test_a_table_is_preferred_to_a_window(tmp_path: Path) -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 10], [(4095 - i) // 4 for i in range(4096)]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    path = write(tmp_path / "a.dcm", STORED, 12, VOILUTSequence=[table], WindowCenter=40, WindowWidth=400)
    np.testing.assert_allclose(read(path)[0], (4095 - STORED.astype(int)) // 4 / 1023, atol=1e-6)
    np.testing.assert_allclose(read(path, window="full")[0], STORED / 4095, atol=1e-6)


def test_a_modality_table(tmp_path: Path) -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], [i * 16 for i in range(4096)]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    path = write(tmp_path / "a.dcm", STORED, 12, ModalityLUTSequence=[table])
    np.testing.assert_allclose(read(path)[0], STORED * 16.0 / 65535, atol=1e-6)


def test_one_frame_of_several(tmp_path: Path) -> None:
    frames = np.stack([STORED + i for i in range(5)])
    path = write(tmp_path / "a.dcm", frames, 12)
    with pytest.raises(DataError, match=r"a DICOM of 5 frames; .* frame='middle'"):
        read(path)
    for wish, number in ((0, 0), (3, 3), (-1, 4), ("middle", 2)):
        np.testing.assert_allclose(read(path, frame=wish)[0], frames[number] / 4095, atol=1e-6)
    with pytest.raises(DataError, match="frame=5, and it has 5 frames"):
        read(path, frame=5)
    one = write(tmp_path / "b.dcm", STORED, 12)
    np.testing.assert_allclose(read(one, frame="middle")[0], STORED / 4095, atol=1e-6)


def test_the_groups_of_an_enhanced_file(tmp_path: Path) -> None:
    def group(**tags: Any) -> Any:
        item = pydicom.Dataset()
        for name, value in tags.items():
            setattr(item, name, value)
        return item

    scale = group(PixelValueTransformationSequence=[group(RescaleSlope=2, RescaleIntercept=-100)])
    windows = [group(FrameVOILUTSequence=[group(WindowCenter=c, WindowWidth=800)]) for c in (1000, 3000)]
    tags = {"SharedFunctionalGroupsSequence": [scale], "PerFrameFunctionalGroupsSequence": windows}
    path = write(tmp_path / "a.dcm", np.stack([STORED, STORED]), 12, **tags)
    expected = through_window(STORED * 2.0 - 100, 3000, 800)
    np.testing.assert_allclose(read(path, frame=1)[0], expected, atol=1e-6)


def test_colours(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    path = write(tmp_path / "a.dcm", rgb)
    np.testing.assert_allclose(read(path, 3), rgb.transpose(2, 0, 1) / 255, atol=1e-6)
    assert read(path, 1).shape == (1, 8, 8)
    ybr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    other = write(tmp_path / "b.dcm", ybr, PhotometricInterpretation="YBR_FULL")
    np.testing.assert_allclose(read(other, 3), rgb.transpose(2, 0, 1) / 255, atol=0.02)
    deep = write(tmp_path / "c.dcm", rgb.astype(np.uint16) * 16, 12)
    np.testing.assert_allclose(read(deep, 3), rgb.transpose(2, 0, 1) * 16.0 / 4095, atol=1e-6)


def test_a_palette(tmp_path: Path) -> None:
    numbers = (np.arange(64) % 4).astype(np.uint8).reshape(8, 8)
    tables = {"Red": [0, 65535, 0, 32768], "Green": [0, 0, 65535, 32768], "Blue": [0, 0, 0, 32768]}
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, table in tables.items():
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = np.array(table, np.uint16).tobytes()
    expected = np.stack([np.array(table)[numbers] for table in tables.values()]) / 65535
    np.testing.assert_allclose(read(write(tmp_path / "a.dcm", numbers, **tags), 3), expected, atol=1e-6)


def test_rle_and_missing_codecs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = pydicom.dcmread(write(tmp_path / "a.dcm", STORED, 12))
    file.compress(pydicom.uid.RLELossless)
    file.save_as(tmp_path / "rle.dcm")
    np.testing.assert_allclose(read(tmp_path / "rle.dcm")[0], STORED / 4095, atol=1e-6)
    assert why_unreadable(tmp_path / "rle.dcm") == ""
    monkeypatch.setattr(type(pydicom.pixels.get_decoder(pydicom.uid.RLELossless)), "is_available", False)
    with pytest.raises(
        DataError, match=r"rle.dcm: .* compressed as RLE Lossless, .* pip install 'petl-vision\[dicom\]'"
    ):
        read(tmp_path / "rle.dcm")
    with pytest.raises(DataError, match=r"rle.dcm: .* no installed package decodes"):  # before a training, not in it
        why_unreadable(tmp_path / "rle.dcm")


def test_without_pydicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.dcm", STORED, 12)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match=r"a.dcm: a DICOM needs pydicom, .* pip install 'petl-vision\[dicom\]'"):
        read(path)


def test_what_has_no_pixels_or_is_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", STORED, 12)
    (tmp_path / "cut.dcm").write_bytes(path.read_bytes()[:-40])
    assert "can't be read" in why_unreadable(tmp_path / "cut.dcm")
    file = pydicom.dcmread(path)
    del file.PixelData
    file.save_as(tmp_path / "report.dcm")
    assert "without pixels" in why_unreadable(tmp_path / "report.dcm")
    odd = write(tmp_path / "odd.dcm", STORED, 12, WindowCenter=40, WindowWidth=0)
    with pytest.raises(DataError, match="width of 0"):
        read(odd)


@pytest.mark.parametrize("packed", [False, True])
def test_dicoms_without_a_suffix_are_found(tmp_path: Path, packed: bool) -> None:
    root = tmp_path / "scans"
    for name in ("well/IM0001", "well/1.2.840.113619.17", "ill/2.dcm", "ill/3.DICOM", "ill/DICOMDIR"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write(root / name, STORED, 12, **CT)
    (root / "well" / "LICENSE").write_text("none")
    (root / "well" / "4").write_bytes(b"short")
    source = root
    if packed:
        source = tmp_path / "scans.tar"
        with tarfile.open(source, "w") as archive:
            archive.add(root, arcname="scans")
    images = data.dataset(source, plain(1))
    assert len(images) == 4 and images.targets.tolist() == [0, 0, 1, 1]  # type: ignore[union-attr]
    assert torch.isfinite(torch.stack([image for image, _ in images])).all()


def test_the_window_gets_into_the_delta_and_out_again(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    model = petl.wrap(timm.create_model("test_resnet"), "probe", num_classes=2)
    petl.record(model).pipeline = data.pipeline(model, window=(600, 1600), frame="middle")  # type: ignore[union-attr]
    petl.save(model, tmp_path / "d.safetensors")
    assert petl.read(tmp_path / "d.safetensors")["pipeline"]["window"] == [600, 1600]
    loaded = petl.load(tmp_path / "d.safetensors", timm.create_model("test_resnet"), check_base=False)
    found = data.pipeline(loaded)
    assert (found["window"], found["frame"]) == ((600, 1600), "middle")
    path = write(tmp_path / "a.dcm", STORED, 12, **CT)
    assert torch.equal(data.image(path, found), data.image(path, data.pipeline(model)))
    assert not torch.equal(data.image(path, found), data.image(path, data.pipeline(model, window="file")))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"window": (40, 0)}, "centre and width"),
        ({"window": "lung"}, "'file', 'full'"),
        ({"window": (40, float("nan"))}, "centre and width"),
        ({"frame": "last"}, "number of a frame"),
        ({"frame": True}, "number of a frame"),
        ({"tiff": "gdal"}, "'tifffile' or 'rasterio'"),
    ],
)
def test_choices_that_cannot_be(change: dict[str, Any], words: str) -> None:
    timm = pytest.importorskip("timm")
    with pytest.raises(DataError, match=words):
        data.pipeline(timm.create_model("test_resnet"), **change)
