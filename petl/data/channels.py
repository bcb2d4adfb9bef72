"""Fits an image to the number of channels that a model takes, without losing bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import rgb_to_grayscale

from petl.data.bands import Bands
from petl.data.decoding import RawImage
from petl.data.tiffs import BITS_PER_SAMPLE
from petl.errors import DataError

DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # PIL's modes with more than 8 bits
SIMPLE_MODES = {"1": "L", "P": "RGB", "PA": "RGBA"}  # PIL's modes whose numbers aren't intensities


class Unfit(DataError):
    """An error: the image in the file is whole, but a model with this pipeline can't take it."""


def fit_channels(image: RawImage, channels: int, fill: Sequence[float] = (0.0,)) -> Image.Image | Tensor:
    """Returns the image with this number of channels: a PIL image in mode "L" or "RGB" if that keeps all bits, else a tensor.

    Colour becomes gray by its luminance, gray is repeated for a model that takes colour; nothing else is guessed.
    Integers are divided by the largest value of their type, floats stay as they are. Pixels that the file marks as having no
    data get ``fill``, one value or one for each channel.

    Raises:
        Unfit: the image has another number of channels, or values that can't be scaled.
    """
    if isinstance(image, Bands):
        return _fitted_bands(image.visible() if channels in (1, 3) else image, channels, fill)
    if isinstance(image, np.ndarray):
        return match_channels(_scaled(_channels_first(image, channels)), channels)
    if (pages := _pages(image)) not in (1, channels):
        raise Unfit(f"it has {pages} gray pages, the model takes {_count(channels)}; one page per channel is expected")
    if image.mode not in DEEP_MODES and channels in (1, 3) and pages == 1:
        return image.convert("L" if channels == 1 else "RGB")
    largest = _largest_value(image)  # before other pages are read, as PIL then has their tags
    return match_channels(_scaled(_array(image, pages), largest), channels)


def _fitted_bands(bands: Bands, channels: int, fill: Sequence[float]) -> Tensor:
    largest, absent = 2.0**bands.bits - 1 if bands.bits else None, bands.absent
    if absent is None:
        return match_channels(_scaled(bands.array, largest), channels)
    if absent.all():
        raise Unfit("none of its pixels has a value: all are marked as having no data")
    image = match_channels(_scaled(np.where(absent, 0, bands.array).astype(bands.array.dtype), largest), channels)
    values = torch.tensor(fill if len(fill) in (1, channels) else [sum(fill) / len(fill)], dtype=image.dtype)
    missing = torch.from_numpy(absent.astype(np.float32))
    missing = missing if len(absent) == channels else missing.amax(0, keepdim=True).expand_as(image)
    return torch.where(missing > 0, values.reshape(-1, 1, 1), image)


def _pages(image: Image.Image) -> int:
    """Returns the number of pages of a TIFF of single-channel pages; frames of an animation aren't channels."""
    single = image.format == "TIFF" and len(image.getbands()) == 1
    return getattr(image, "n_frames", 1) if single else 1


def _array(image: Image.Image, pages: int) -> np.ndarray:
    """Returns the values of a PIL image, [channels, H, W]; the pages of a gray TIFF are its channels."""
    if pages > 1:
        return _stacked(image, pages)
    array = np.asarray(image.convert(SIMPLE_MODES[image.mode]) if image.mode in SIMPLE_MODES else image)
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)


def _stacked(image: Image.Image, pages: int) -> np.ndarray:
    arrays = []
    for page in range(pages):
        image.seek(page)
        arrays.append(np.asarray(image))
    if len({(a.shape, a.dtype) for a in arrays}) > 1:
        raise Unfit(f"its {pages} pages differ in size or type; one image per file, or pages that are channels")
    return np.stack(arrays)


def _largest_value(image: Image.Image) -> float | None:
    """Returns the value that stands for 1.0 in PIL's modes for integers above 8 bits; None where the array's type tells."""
    bits = image.tag_v2.get(BITS_PER_SAMPLE, (32,))[0] if image.format == "TIFF" else 0  # type: ignore[attr-defined]  # TiffImageFile only
    if image.mode.startswith("I;16") and 8 < bits < 16:
        return 2.0**bits - 1  # 12 bits, packed
    if image.mode != "I":
        return None
    if bits:
        return 2.0 ** (bits - 1) - 1  # signed: unsigned 16 bits come as mode "I;16"
    return 65535.0  # what older releases of Pillow make of a PNG with 16 bits


def _channels_first(array: np.ndarray, channels: int) -> np.ndarray:
    """Returns [k, H, W] of [H, W], [k, H, W] or [H, W, k]: k is ``channels``, or 1 for a model that takes 3, 3 for 1."""
    if array.ndim == 2:
        return array[None]
    for k in (channels, {1: 3, 3: 1}.get(channels, channels)) if array.ndim == 3 else ():
        first, last = array.shape[0] == k, array.shape[-1] == k
        if first and last:
            raise Unfit(f"array {_shape(array)} could be [{k}, H, W] or [H, W, {k}]; crop or pad one side")
        if first or last:
            return array if first else np.moveaxis(array, -1, 0)
    raise Unfit(
        f"array {_shape(array)}, but the model takes {_count(channels)}: expected [{channels}, H, W], "
        f"[H, W, {channels}]{', or [H, W]' if channels in (1, 3) else ''}"
    )


def _scaled(array: np.ndarray, largest: float | None = None) -> Tensor:
    """Returns integers of 8 and 16 bits scaled to 0..1 (signed ones to -1..1), and floats as they are.

    ``largest`` is the value that becomes 1.0; None for the largest of the type.
    """
    dtype = array.dtype
    if dtype.kind in "iu" and largest is None:
        if dtype.itemsize > 2:
            raise Unfit(f"array of {dtype}, whose range says nothing about the image's; save uint8, uint16 or float")
        largest = float(np.iinfo(dtype).max)
    elif dtype.kind not in "iufb":
        raise Unfit(f"array of {dtype}; expected uint8, uint16, int16, bool or float")
    tensor = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
    if not torch.isfinite(tensor).all():
        raise Unfit("it holds NaN or infinite values, which would spoil training; replace them")
    return tensor / largest if largest else tensor


def match_channels(image: Tensor, channels: int) -> Tensor:
    """Returns an image [c, H, W] with the model's channels: the same, gray repeated three times, or the luminance of colour."""
    if len(image) == channels:
        return image
    if (len(image), channels) == (1, 3):
        return image.expand(3, -1, -1)
    if (len(image), channels) == (3, 1):
        return rgb_to_grayscale(image)
    raise Unfit(
        f"the image has {_count(len(image))}, the model takes {_count(channels)}; give images of {_count(channels)}, or adapt "
        f"the model to these: petl.wrap(model, [petl.Input(in_chans={len(image)}), 'lora'])"
    )


def _count(channels: int) -> str:
    return f"{channels} channel{'s' * (channels != 1)}"


def _shape(array: np.ndarray) -> str:
    return "[" + ", ".join(map(str, array.shape)) + "]"
