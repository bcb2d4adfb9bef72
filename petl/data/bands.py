"""An image of any number of channels and bits, and PNGs of 16-bit colours, of which PIL drops bits."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES, ALPHA_TYPES = (2, 4, 6), (4, 6)  # PNG's colour types with several channels


@dataclass(frozen=True)
class Bands:
    """An image [k, H, W] whose first axis is certainly that of the channels.

    bits: how many of the type's bits are used, None for all. alpha: whether the last channel is transparency. absent: where a
    pixel has no value, bool [k, H, W]; None where all have one.
    """

    array: np.ndarray
    bits: int | None = None
    alpha: bool = False
    absent: np.ndarray | None = None

    def visible(self) -> Bands:
        """Returns the channels without transparency."""
        if not self.alpha:
            return self
        absent = None if self.absent is None else self.absent[:-1]
        return replace(self, array=self.array[:-1], absent=absent, alpha=False)


def read_png(data: bytes) -> Bands | None:
    """Returns the bands of a PNG that PIL doesn't read whole; None for any other one."""
    if len(data) <= 25 or data[24] != 16 or data[25] not in COLOUR_TYPES:
        return None
    try:
        from torchvision.io import ImageReadMode, decode_png
    except ImportError:  # torchvision announces that its decoders will go; PIL then gives 8 of the 16 bits
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pixels = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.UNCHANGED)
    return Bands(pixels.numpy(), alpha=data[25] in ALPHA_TYPES)
