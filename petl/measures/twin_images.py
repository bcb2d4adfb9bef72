"""Images that are there twice: the same numbers, or all but the same picture."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

SAME_PICTURE, SAME_FEATURES = 0.98, 0.999  # correlation of small pictures; cosine of features


def twin_pairs(pictures: Tensor, features: Tensor | None = None) -> list[tuple[int, int, float]]:
    """Returns pairs (i, j, correlation) of images [N, C, h, w] that are nearly the same, i < j, the most alike first.

    Nearly the same is a correlation of .98 of the small pictures and, where features [N, D] are given, a cosine of .999: pictures
    of one bright thing on a dark ground are alike in outline alone. Pictures without any contrast are in no pair.
    """
    flat = pictures.double().flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    flat = F.normalize(flat, dim=1) * (flat.norm(dim=1, keepdim=True) > 1e-6)
    unit = None if features is None else F.normalize(features.double(), dim=1)
    pairs: list[tuple[int, int, float]] = []
    for start in range(0, len(flat), 1024):
        part = flat[start : start + 1024]
        alike = part @ flat.T
        near = alike >= SAME_PICTURE
        if unit is not None:
            near &= unit[start : start + 1024] @ unit.T >= SAME_FEATURES
        for row, column in near.nonzero().tolist():
            if start + row < column:
                pairs.append((start + row, column, min(float(alike[row, column]), 1.0)))
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))


def equal_images(images: Tensor) -> dict[int, int]:
    """Returns for each image [N, ...] that an earlier one equals in every number, the number of the first such one.

    >>> import torch
    >>> equal_images(torch.tensor([[1.0], [2.0], [1.0]]))
    {2: 0}
    """
    first: dict[bytes, int] = {}
    numbers = [first.setdefault(image.contiguous().numpy().tobytes(), n) for n, image in enumerate(images.cpu())]
    return {n: at for n, at in enumerate(numbers) if n != at}
