"""Facts about image files, without a model: sizes, bits, channels, and a fingerprint of the bytes."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import TensorDataset

from petl.advice.opened import ImagePart
from petl.advice.single_images import picture_name, raw_channels
from petl.data.bands import PNG_MAGIC, Bands
from petl.data.datasets import Images
from petl.data.decoding import NUMPY_MAGIC, decode
from petl.data.dicoms import is_dicom
from petl.data.tiffs import TIFF_MAGIC
from petl.data.wrappers import locate
from petl.errors import PetlError

MODE_BITS = {"I": 32, "F": 32, "1": 1}  # of PIL's modes; I;16 and its kind have 16, all others 8
DEEP_PNG = 24  # the byte of a PNG with its bits


@dataclass(frozen=True)
class Spread:
    """The smallest, the middle and the largest of numbers; None where nothing is known."""

    least: float | None = None
    median: float | None = None
    most: float | None = None

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """Returns the spread of these numbers."""
        if not len(numbers):
            return cls()
        return cls(float(min(numbers)), float(np.median(np.asarray(numbers))), float(max(numbers)))


@dataclass(frozen=True)
class FileFacts:
    """What the files of a part have; of images that are no files, nothing is known.

    Attributes:
        files: How many were looked at.
        width, height: In pixels.
        bits: How many files have so many bits for each channel, by the bits as text.
        channels: How many files have so many channels, without transparency.
        transparent: How many have transparency.
        unreadable: The files that can't be read, with the reasons.
    """

    files: int = 0
    width: Spread = field(default_factory=Spread)
    height: Spread = field(default_factory=Spread)
    bits: dict[str, int] = field(default_factory=dict)
    channels: dict[str, int] = field(default_factory=dict)
    transparent: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Header:
    width: int
    height: int
    bits: int
    channels: int
    transparent: bool


def file_facts(part: ImagePart) -> tuple[FileFacts, list[str | None]]:
    """Returns the facts about a part's files, and for each image a fingerprint of its bytes (None of what can't be had).

    Of tensors in memory, the fingerprints are those of their values.
    """
    headers: list[_Header] = []
    prints: list[str | None] = []
    bad = dict(part.unreadable)
    for index in range(len(part.dataset)):
        owner, number = locate(part.dataset, index)
        contents: Any = None
        try:
            if isinstance(owner, Images):
                contents = owner.contents(number)
                headers.append(_header(contents, owner))
            elif type(owner) is TensorDataset:
                contents = owner.tensors[0][number].detach().cpu().numpy()
        except (PetlError, OSError, ValueError, SyntaxError) as error:
            bad[picture_name(part.dataset, index)] = str(error)
            contents = None
        prints.append(None if contents is None else _fingerprint(contents))
    return _facts(headers, bad), prints


def _facts(headers: list[_Header], bad: dict[str, str]) -> FileFacts:
    return FileFacts(
        len(headers),
        Spread.of([header.width for header in headers]),
        Spread.of([header.height for header in headers]),
        _counted(str(header.bits) for header in headers),
        _counted(str(header.channels) for header in headers),
        sum(header.transparent for header in headers),
        bad,
    )


def _counted(values: Any) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _fingerprint(contents: Any) -> str:
    """Returns a fingerprint of a file's bytes, or of the pixels of what is no file."""
    if isinstance(contents, bytes):
        return hashlib.blake2b(contents, digest_size=16).hexdigest()
    array = np.ascontiguousarray(contents.array if isinstance(contents, Bands) else np.asarray(contents))
    shape = f"{getattr(contents, 'mode', '')} {array.dtype} {array.shape} "
    return hashlib.blake2b(shape.encode() + array.tobytes(), digest_size=16).hexdigest()


def _header(contents: Any, owner: Images) -> _Header:
    """Returns what is known of an image from the beginning of its file; where that isn't enough, the file is decoded."""
    if isinstance(contents, bytes):
        contents = (
            decode(contents, owner.transform.reading) if _is_special(contents) else Image.open(io.BytesIO(contents))
        )
    if isinstance(contents, Image.Image):
        deep = contents.mode.startswith("I;16") or (contents.mode, contents.format) == ("I", "PNG")
        bits = 16 if deep else MODE_BITS.get(contents.mode, 8)
        clear = bool({"A", "a"} & {*contents.getbands()}) or "transparency" in contents.info
        return _Header(*contents.size, bits, raw_channels(contents) or 0, clear)
    bands = contents if isinstance(contents, Bands) else None
    array = bands.array if bands else np.asarray(contents)
    height, width = _sides(array, channels_first=bands is not None)
    bits = (bands.bits if bands else None) or 8 * array.dtype.itemsize
    return _Header(width, height, bits, raw_channels(contents) or 0, bool(bands and bands.alpha))


def _is_special(contents: bytes) -> bool:
    """Returns whether the beginning of the file doesn't tell PIL what is in it: ``.npy``, TIFF, DICOM, PNGs of 16 bits."""
    deep = contents.startswith(PNG_MAGIC) and len(contents) > DEEP_PNG and contents[DEEP_PNG] == 16
    return deep or contents.startswith((NUMPY_MAGIC, *TIFF_MAGIC)) or is_dicom(contents)


def _sides(array: np.ndarray, *, channels_first: bool) -> tuple[int, int]:
    if array.ndim < 3:
        return int(array.shape[0]), int(array.shape[-1])
    first = channels_first or array.shape[0] <= array.shape[-1]
    return (int(array.shape[1]), int(array.shape[2])) if first else (int(array.shape[0]), int(array.shape[1]))
