"""Small pictures of images, as text that a page can hold."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

THUMBNAIL_SIDE, LOOK_SIDE = 64, 128  # pixels of the longer side
JPEG_QUALITY = 72  # of JPEG: 1.3 kB for 64 pixels


Colours = Callable[[Tensor], Tensor]


def colours_of(pictures: Tensor, pipeline: Mapping[str, Any]) -> Colours:
    """Returns a function from images [N, C, H, W] like these to colours [N, 3, H, W] from 0 to 1, as before the normalisation.

    Where the pipeline's mean and deviation don't lead back to that range, the images are taken as they are, if they are in it,
    and else stretched from their 1st to their 99th percentile. Of more than three bands, the first three are shown; of two, the
    first.
    """
    some = pictures[:: max(1, len(pictures) // 64)].float()
    mean, std = (torch.tensor(pipeline[key], dtype=torch.float32)[:, None, None] for key in ("mean", "std"))
    low, high = torch.zeros(()), torch.ones(())
    if len(mean) == some.shape[1] and _is_unit(some * std + mean):
        low, high = -mean / std, (1 - mean) / std
    elif not _is_unit(some):
        low, high = _percentiles(some)

    def colours(images: Tensor) -> Tensor:
        shown = (images.float() - low) / (high - low).clamp_min(1e-12)
        return (shown[:, :3] if shown.shape[1] >= 3 else shown[:, :1].expand(-1, 3, -1, -1)).clamp(0, 1)

    return colours


def _is_unit(values: Tensor) -> bool:
    return float(values.min()) > -0.05 and float(values.max()) < 1.05


def _percentiles(values: Tensor) -> tuple[Tensor, Tensor]:
    some = values.flatten()[:: max(1, values.numel() // 100_000)]
    return some.quantile(0.01), some.quantile(0.99)


def thumbnails(pictures: Tensor, colours: Colours, side: int = THUMBNAIL_SIDE) -> list[str]:
    """Returns each image as a JPEG in base64, with ``side`` pixels on its longer side (fewer where the image has fewer)."""
    height, width = pictures.shape[2:]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    made = []
    for part in pictures.split(64):
        shown = colours(part)
        if size != (height, width):
            shown = F.interpolate(shown, size=size, mode="bilinear", antialias=True, align_corners=False)
        pixels = (shown.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        made += [_jpeg(Image.fromarray(image)) for image in pixels]
    return made


def _jpeg(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def heat_picture(grid: list[list[float]]) -> str:
    """Returns a map of numbers from 0 to 1 as a PNG in base64, a pixel for each, from clear to orange to yellow.

    A browser smooths it when it is drawn larger.
    """
    heat = torch.tensor(grid).clamp(0, 1)
    colours = torch.stack(
        [torch.full_like(heat, 1.0), 0.35 + 0.57 * heat.square(), 0.30 * heat**4, 0.82 * heat.sqrt()], 2
    )
    file = io.BytesIO()
    Image.fromarray((colours * 255).round().byte().numpy(), "RGBA").save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")
