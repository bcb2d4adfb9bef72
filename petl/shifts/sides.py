"""Both sides of a comparison as tensors: features, classes, and scores by a classifier that hasn't learned from these images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Sides:
    """Labelled source images and target images, as arithmetic takes them.

    Attributes:
        x, y: Features [n, D] and class numbers [n] of the source. z, target_y: of the target [m, D]; classes or None.
        classes: The names of the K classes.
        scores, target_scores: Class scores [n, K] and [m, K] by a classifier that hasn't learned from these images: the model's
            own, or one in closed form, whose source scores are of the images left out.
        own_scores: The target's by the model's own classifier; None where it has none of these classes.
        own: Whether ``scores`` are the model's own classifier's.
    """

    x: Tensor
    y: Tensor
    z: Tensor
    target_y: Tensor | None
    classes: list[str]
    scores: Tensor
    target_scores: Tensor
    own_scores: Tensor | None = None
    own: bool = False
