"""Reads DICOM images, by pydicom: gray ones through their window to 0..1, colours as RGB."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from petl.data.bands import Bands
from petl.data.reading import Reading, Unreadable
from petl.errors import DataError

MAGIC, MAGIC_AT = b"DICM", 128
DELIMITER = b"\xfe\xff\xdd\xe0"  # the end of compressed pixels
NEEDED = ("PhotometricInterpretation", "BitsStored", "PixelRepresentation")
NOT_INSTALLED = "a DICOM needs pydicom, which is not installed: pip install 'petl-vision[dicom]'"


def is_dicom(start: bytes) -> bool:
    """Returns whether the first bytes of a file (132 or more) are those of a DICOM.

    >>> is_dicom(bytes(128) + b"DICM")
    True
    """
    return start[MAGIC_AT : MAGIC_AT + len(MAGIC)] == MAGIC


def read_dicom(data: bytes, reading: Reading) -> Image.Image | Bands:
    """Returns a DICOM's pixels: gray ones as floats of 0..1, rescaled and windowed, 0 being black; 8-bit colours as a PIL image.

    Raises:
        Unreadable: it has no pixels, or several frames of which none was chosen.
        DataError: pydicom, or the package for this kind of compression, isn't installed.
    """
    pydicom = _pydicom()
    file = pydicom.dcmread(io.BytesIO(data))
    if "PixelData" not in file and "FloatPixelData" not in file and "DoubleFloatPixelData" not in file:
        raise Unreadable("a DICOM without pixels (a report, a plan or a directory, say)")
    _refuse_missing_codec(pydicom, file)
    frame = _frame_number(file, reading.frame)
    pixels = pydicom.pixels.pixel_array(file, index=frame)
    kind = str(file.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        return _colours(pydicom.pixels.apply_color_lut(pixels, file), int(file.RedPaletteColorLookupTableDescriptor[2]))
    if pixels.ndim == 3:
        return _colours(pixels, int(file.BitsStored))
    gray = _windowed(pydicom, file, pixels, frame, reading.window)
    return Bands((1 - gray if kind == "MONOCHROME1" else gray)[None].astype(np.float32))


def dicom_is_whole(file: BinaryIO, tail: bytes, size: int) -> bool:
    """Returns whether a DICOM's pixels end inside of the file; False where only reading it shows that."""
    pydicom = _pydicom()
    file.seek(0)
    head = pydicom.dcmread(file, stop_before_pixels=True)
    _refuse_missing_codec(pydicom, head)
    if any(name not in head for name in NEEDED):
        return False
    if head.file_meta.TransferSyntaxUID.is_compressed:
        return DELIMITER in tail and int(head.get("NumberOfFrames") or 1) == 1
    count = int(head.Rows) * int(head.Columns) * int(head.SamplesPerPixel) * int(head.BitsAllocated) // 8
    return int(head.get("NumberOfFrames") or 1) == 1 and file.tell() + count <= size


def _pydicom() -> Any:
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise DataError(NOT_INSTALLED) from error
    return pydicom


def _refuse_missing_codec(pydicom: Any, file: Any) -> None:
    """Raises a DataError where no installed package decodes the pixels; it isn't the fault of the file."""
    syntax = file.file_meta.TransferSyntaxUID
    try:
        available = not syntax.is_compressed or pydicom.pixels.get_decoder(syntax).is_available
    except (NotImplementedError, ValueError, AttributeError):
        raise Unreadable(f"its pixels are in {syntax.name}, which pydicom doesn't read; save it uncompressed") from None
    if not available:
        raise DataError(
            f"its pixels are compressed as {syntax.name}, which no installed package decodes: "
            "pip install 'petl-vision[dicom]'"
        )


def _frame_number(file: Any, wish: int | str | None) -> int:
    count = int(file.get("NumberOfFrames") or 1)
    if wish is None and count > 1:
        raise Unreadable(
            f"a DICOM of {count} frames; say which one is the image: petl.data.pipeline(model, frame='middle'), or a number"
        )
    number = count // 2 if wish == "middle" else 0 if count == 1 else int(wish or 0)
    if not -count <= number < count:
        raise Unreadable(f"frame={number}, and it has {count} frames")
    return number % count


def _colours(pixels: np.ndarray, bits: int) -> Image.Image | Bands:
    if pixels.dtype == np.uint8:
        return Image.fromarray(pixels)
    return Bands(np.moveaxis(pixels, -1, 0), bits if bits < 8 * pixels.dtype.itemsize else None)


def _groups(file: Any, frame: int) -> Iterator[Any]:
    """Yields where the attributes of a frame may be: its own groups, those that frames share, the file itself."""
    for name, number in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        groups = file.get(name) or []
        if number < len(groups):
            for inner in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                yield from groups[number].get(inner) or []
    yield file


def _attribute(file: Any, frame: int, name: str) -> Any:
    return next((group.get(name) for group in _groups(file, frame) if group.get(name) not in (None, "")), None)


def _windowed(pydicom: Any, file: Any, pixels: np.ndarray, frame: int, window: Any) -> np.ndarray:
    """Returns the gray values as 0..1: rescaled, and through the window."""
    values = _rescaled(pydicom, file, pixels, frame)
    tables = file.get("VOILUTSequence")
    if window == "file" and tables:
        return pydicom.pixels.apply_voi(np.rint(values).astype(np.int64), file) / (
            2.0 ** int(tables[0].LUTDescriptor[2]) - 1
        )
    if window == "file":
        centre, width = (_attribute(file, frame, name) for name in ("WindowCenter", "WindowWidth"))
        window = "full" if centre is None or width is None else (_first(centre), _first(width))
    if window == "full":
        return _full_range(pydicom, file, values, frame)
    function = str(_attribute(file, frame, "VOILUTFunction") or "LINEAR").upper()
    return through_window(values, *window, function=function)


def _rescaled(pydicom: Any, file: Any, pixels: np.ndarray, frame: int) -> np.ndarray:
    if file.get("ModalityLUTSequence"):
        return pydicom.pixels.apply_modality_lut(pixels, file).astype(np.float64)
    slope, intercept = (_attribute(file, frame, name) for name in ("RescaleSlope", "RescaleIntercept"))
    return pixels.astype(np.float64) * float(1 if slope is None else slope) + float(intercept or 0)


def _first(value: Any) -> float:
    return float(value[0] if hasattr(value, "__getitem__") and not isinstance(value, str) else value)


def _full_range(pydicom: Any, file: Any, values: np.ndarray, frame: int) -> np.ndarray:
    """Returns the values so that the smallest number of the file's bits is 0 and the largest one 1."""
    if "PixelData" not in file:
        return values  # floats: as they are
    if tables := file.get("ModalityLUTSequence"):
        return values / (2.0 ** int(tables[0].LUTDescriptor[2]) - 1)
    bits, signed = int(file.BitsStored), bool(file.PixelRepresentation)
    stored = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
    ends = _rescaled(pydicom, file, stored, frame)
    return np.clip((values - ends.min()) / (ends.max() - ends.min()), 0, 1)


def through_window(values: np.ndarray, centre: float, width: float, *, function: str = "LINEAR") -> np.ndarray:
    """Returns values as 0..1 through a window, by the formulas of DICOM (PS3.3, C.11.2.1.2 and 3).

    >>> through_window(np.array([-160.0, 40.0, 240.0]), 40, 400, function="LINEAR_EXACT").tolist()
    [0.0, 0.5, 1.0]
    """
    if width < (1 if function == "LINEAR" else 0) or (width == 0 and function != "LINEAR"):
        raise Unreadable(f"its window has a width of {width:g}; pass one: petl.data.pipeline(model, window=(40, 400))")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
