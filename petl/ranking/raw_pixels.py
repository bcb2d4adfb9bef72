"""What raw pixels alone say: the reading that any backbone has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from petl.data.batches import loader
from petl.evidence.reading import ClassReading, read_classes
from petl.ranking.ranked_images import RankedPart

SIDES = (8, 16)  # pixels; the better of the two counts
RAW = {"interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash"}


def read_raw_pixels(part: RankedPart, rows: np.ndarray, pipeline: Mapping[str, Any], classes: int) -> ClassReading:
    """Returns how well a few pixels of the whole image tell the classes of these images, by the heads that backbones get."""
    side, channels = max(SIDES), pipeline["input_size"][0]
    plain = {
        **pipeline,
        **RAW,
        "input_size": (channels, side, side),
        "mean": (0.0,) * channels,
        "std": (1.0,) * channels,
    }
    batches = loader(part.read_with(plain, rows), batch_size=64)
    images = torch.cat([_small(torch.as_tensor(images), side) for images, *_ in batches])
    y = part.y[torch.from_numpy(rows)]
    readings = [read_classes(F.adaptive_avg_pool2d(images, size).flatten(1), y, classes) for size in SIDES]
    return max(readings, key=lambda reading: reading.balanced)


def _small(images: Tensor, side: int) -> Tensor:
    """Returns images [N, C, side, side], in float32; also of integers."""
    images = images.float() if images.is_floating_point() else images.float() / 255
    return images if images.shape[-2:] == (side, side) else F.adaptive_avg_pool2d(images, side)
