"""Fits an image to the number of channels that a model takes, without losing bits."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import rgb_to_grayscale

from petl.data.bands import BITS_PER_SAMPLE, Bands
from petl.data.decoding import RawImage
from petl.errors import DataError

DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # PIL's modes with more than 8 bits
SIMPLE_MODES = {"1": "L", "P": "RGB", "PA": "RGBA"}  # PIL's modes whose numbers aren't intensities


class Unfit(DataError):
    """The picture in the file is whole, but not one that a model with this pipeline takes."""


def fit_channels(image: RawImage, channels: int) -> Image.Image | Tensor:
    """The picture with the model's channels: PIL in mode "L" or "RGB" where that loses no depth, else a tensor.

    Colour becomes gray by its luminance, gray is repeated for a model that takes colour; nothing else is guessed.
    Integers are divided by the largest value of their type, floats stay as they are.
    """
    if isinstance(image, Bands):
        array = image.visible() if channels in (1, 3) else image.array
        return _match_channels(_scaled(array, 2.0**image.bits - 1 if image.bits else None), channels)
    if isinstance(image, np.ndarray):
        return _match_channels(_scaled(_channels_first(image, channels)), channels)
    if (pages := _pages(image)) not in (1, channels):
        raise Unfit(f"it has {pages} gray pages, the model takes {_count(channels)}; one page per channel is expected")
    if image.mode not in DEEP_MODES and channels in (1, 3) and pages == 1:
        return image.convert("L" if channels == 1 else "RGB")
    top = _largest(image)  # before other pages are looked at
    return _match_channels(_scaled(_array(image, pages), top), channels)


def _pages(image: Image.Image) -> int:
    """How many pages a TIFF of single-channel pages has; frames of an animation are no channels."""
    single = image.format == "TIFF" and len(image.getbands()) == 1
    return getattr(image, "n_frames", 1) if single else 1


def _array(image: Image.Image, pages: int) -> np.ndarray:
    """The numbers in a PIL image, [channels, H, W]; the pages of a gray TIFF are its channels."""
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


def _largest(image: Image.Image) -> float | None:
    """What stands for 1.0 in PIL's mode "I", which also holds numbers of 16 bits; None: the array's type tells."""
    bits = image.tag_v2.get(BITS_PER_SAMPLE, (32,))[0] if image.format == "TIFF" else 0  # type: ignore[attr-defined]  # TiffImageFile only
    if image.mode.startswith("I;16") and 8 < bits < 16:
        return 2.0**bits - 1  # 12 bits, packed
    if image.mode != "I":
        return None
    if bits:
        return 2.0 ** (bits - 1) - 1  # signed: unsigned 16 bits come as mode "I;16"
    return 65535.0  # what older releases of Pillow make of a PNG with 16 bits


def _channels_first(array: np.ndarray, channels: int) -> np.ndarray:
    """[H, W], [k, H, W] or [H, W, k] -> [k, H, W], told apart by the model's channels (else by 1 for 3, 3 for 1)."""
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


def _scaled(array: np.ndarray, top: float | None = None) -> Tensor:
    """Integers of 8 and 16 bits to 0..1 (signed ones to -1..1) by the range of their type; floats as they are."""
    kind = array.dtype
    if kind.kind in "iu" and top is None:
        if kind.itemsize > 2:
            raise Unfit(f"array of {kind}, whose range says nothing about the picture's; save uint8, uint16 or float")
        top = float(np.iinfo(kind).max)
    elif kind.kind not in "iufb":
        raise Unfit(f"array of {kind}; expected uint8, uint16, int16, bool or float")
    tensor = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
    if not torch.isfinite(tensor).all():
        raise Unfit("it holds NaN or infinite values, which would spoil training; replace them")
    return tensor / top if top else tensor


def _match_channels(image: Tensor, channels: int) -> Tensor:
    """[c, H, W] with the model's channels: the same, gray repeated three times, or the luminance of colour."""
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
