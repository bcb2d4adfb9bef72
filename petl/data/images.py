"""Pictures of any depth and number of channels, to the tensor that the model takes.

Ordinary 8-bit pictures go through timm's transforms as PIL images, exactly as timm does it. Everything else (16-bit
files, float files, ``.npy`` arrays, pages of a TIFF, any number of channels but 1 and 3) becomes a float tensor first,
and the same transforms then run on the tensor, without those that only know colours of 8 bits.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision.transforms.functional import rgb_to_grayscale

from petl.data.bands import BITS_PER_SAMPLE, Bands, read_bands
from petl.errors import DataError, near

STUBS = {"BUFR", "GRIB", "HDF5", "MPEG", "EPS", "WMF", "PDF"}  # PIL knows them, and needs a program more to read them
KEYS = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # PIL's modes with more than 8 bits
SIMPLE = {"1": "L", "P": "RGB", "PA": "RGBA"}  # PIL's modes whose numbers aren't intensities
COLOUR_ONLY = {"auto_augment", "color_jitter", "grayscale_prob", "gaussian_blur_prob"}
PIPELINES = {"input_size", "mean", "std", "is_training", "use_prefetcher", "normalize", "separate"}  # no augmentation
NUMPY_MAGIC = b"\x93NUMPY"
Picture = Image.Image | np.ndarray | Bands


def extensions() -> set[str]:
    """The endings of the files that can be read, in lower case: those of PIL, with its plugins, and ``.npy``."""
    Image.init()
    kinds = {name for name in Image.OPEN if name not in STUBS}
    return {ending for ending, kind in Image.registered_extensions().items() if kind in kinds} | {".npy"}


class Unreadable(DataError):
    """The file is damaged, empty or of no known kind."""


class Unfit(DataError):
    """The picture in the file is whole, but not one that a model with this pipeline takes."""


class Transform:
    """The bytes of a file, a PIL image or an array -> the float tensor [k, H, W] that a model with this pipeline takes.

    Args:
        pipeline: See `petl.data.pipeline`; ``input_size[0]`` is the number of channels k.
        training: Random crops and flips (timm's defaults) rather than the evaluation crop.
        augment: Options for `timm.data.create_transform`, such as ``{"hflip": 0.0, "scale": (0.5, 1.0)}``.

    Raises:
        DataError: `Unfit`, the picture doesn't fit the pipeline's channels; `Unreadable`, it can't be decoded at all; or the
            options of ``augment`` are none that go with it.
    """

    def __init__(self, pipeline: Mapping[str, Any], training: bool = False, augment: Mapping[str, Any] | None = None):
        _refuse_pipelines(augment or {})
        self.channels = int(pipeline["input_size"][0])
        self.augment = dict(augment or {}) if training else {}
        self.config = {key: pipeline[key] for key in KEYS if key in pipeline}
        self.config.update(input_size=tuple(pipeline["input_size"]), is_training=training)
        self.on_pictures = _timm_transform(self.config, self.augment)

    def picture(self, source: bytes | Picture) -> Image.Image | Tensor:
        """The picture with the model's channels, all of it, before the transform."""
        return arrange(decode(source) if isinstance(source, bytes) else loaded(source), self.channels)

    def __call__(self, source: bytes | Picture) -> Tensor:
        image = self.picture(source)
        return (self.on_tensors if isinstance(image, Tensor) else self.on_pictures)(image)

    @functools.cached_property
    def on_tensors(self) -> Any:
        """timm's transform without what torchvision refuses on tensors of k channels and 16 bits."""
        asked = sorted(name for name in COLOUR_ONLY & set(self.augment) if self.augment[name])
        if asked or self.config.get("crop_mode") == "border":
            what = ", ".join(asked) or 'crop_mode="border"'
            raise DataError(f"{what} works on 8-bit pictures with 1 or 3 channels only; leave it out for this data")
        smooth = {"lanczos": "bicubic", "hamming": "bilinear", "box": "bilinear"}  # PIL has them, torch doesn't
        kind = self.config.get("interpolation", "bilinear")
        config = {**self.config, "interpolation": smooth.get(kind, kind)}
        return _timm_transform(config, {**self.augment, "color_jitter": None})


def _refuse_pipelines(augment: Mapping[str, Any]) -> None:
    """What measuring must share with training is the pipeline's: ``augment`` would change it for training alone."""
    odd = sorted(PIPELINES & set(augment))
    if odd:
        raise DataError(
            f"augment is of training alone and can't change {', '.join(odd)}: that belongs into the pipeline"
        )


def _timm_transform(config: Mapping[str, Any], augment: Mapping[str, Any]) -> Any:
    try:
        return create_transform(**{**config, **augment})
    except TypeError as error:
        known = create_transform.__code__.co_varnames[: create_transform.__code__.co_argcount]
        odd = [name for name in augment if name not in known]
        hints = "".join(f"{name!r}{near(name, known)}" for name in odd[:1]) or str(error)
        raise DataError(f"augment takes the options of timm.data.create_transform, not {hints}") from error


def opened(path: str | os.PathLike[str]) -> BinaryIO:
    """The file, open to read; a device might never end, and a pipe may have no writer.

    Raises:
        Unreadable: It is no ordinary file.
        OSError: It can't be opened.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))  # a pipe would wait
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        raise Unreadable("it is no ordinary file, and no other is read")
    return os.fdopen(handle, "rb")


def decode(data: bytes) -> Picture:
    """The picture in a file's bytes, all pixels read: an array for ``.npy``, bands for what PIL would cut, else a PIL image.

    Raises:
        Unreadable: It is damaged, or neither an image that PIL knows nor a ``.npy`` array.
    """
    if not data:
        raise Unreadable("the file is empty")
    with _readable(data):
        picture = _opened(data)
    array = picture.array if isinstance(picture, Bands) else picture
    shape = array.shape if isinstance(array, np.ndarray) else array.size
    if not all(shape):
        raise Unreadable(f"it has no pixels: its shape is [{', '.join(map(str, shape))}]")
    return picture


def loaded(picture: Picture) -> Picture:
    """The picture, all pixels read: readers may hand out PIL images that are opened only.

    Raises:
        Unreadable: It is damaged.
    """
    if isinstance(picture, Image.Image):
        with _readable():
            picture.load()
    return picture


@contextlib.contextmanager
def _readable(data: bytes = b"") -> Iterator[None]:
    """Whatever a codec raises is `Unreadable`."""
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable(f"no image that petl can read: it begins with {data[:8]!r}, which PIL doesn't know") from error
    except Exception as error:  # PIL's codecs raise OSError, SyntaxError, struct.error, EOFError and more
        raise Unreadable(f"it can't be read: {error or type(error).__name__}") from error


def _opened(data: bytes) -> Picture:
    if data.startswith(NUMPY_MAGIC):
        return np.load(io.BytesIO(data), allow_pickle=False)
    if (bands := read_bands(data)) is not None:
        return bands
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def arrange(image: Picture, channels: int) -> Image.Image | Tensor:
    """The picture with the model's channels: PIL in mode "L" or "RGB" where that loses no depth, else a tensor.

    Colour becomes gray by its luminance, gray is repeated for a model that takes colour; nothing else is guessed.
    Integers are divided by the largest value of their type, floats stay as they are.
    """
    if isinstance(image, Bands):
        array = image.visible() if channels in (1, 3) else image.array
        return _match(_scaled(array, 2.0**image.bits - 1 if image.bits else None), channels)
    if isinstance(image, np.ndarray):
        return _match(_scaled(_channels_first(image, channels)), channels)
    if (pages := _pages(image)) not in (1, channels):
        raise Unfit(f"it has {pages} gray pages, the model takes {_count(channels)}; one page per channel is expected")
    if image.mode not in DEEP and channels in (1, 3) and pages == 1:
        return image.convert("L" if channels == 1 else "RGB")
    top = _largest(image)  # before other pages are looked at
    return _match(_scaled(_array(image, pages), top), channels)


def _pages(image: Image.Image) -> int:
    """How many pages a TIFF of single-channel pages has; frames of an animation are no channels."""
    single = image.format == "TIFF" and len(image.getbands()) == 1
    return getattr(image, "n_frames", 1) if single else 1


def _array(image: Image.Image, pages: int) -> np.ndarray:
    """The numbers in a PIL image, [channels, H, W]; the pages of a gray TIFF are its channels."""
    if pages > 1:
        return _stacked(image, pages)
    array = np.asarray(image.convert(SIMPLE[image.mode]) if image.mode in SIMPLE else image)
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


def _match(image: Tensor, channels: int) -> Tensor:
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
