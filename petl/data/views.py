"""Several views of each image at evaluation (test-time augmentation): flips, crops, or functions of the user's own.

The views are made of the images as the model takes them, so they work for folders, datasets and loaders alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petl.data.logits import require_logits
from petl.errors import DataError, shortened

View = Callable[[Tensor], Tensor]
Views = Literal["flip", 1, 2, 5, 10] | Sequence[View] | None
AveragedTask = Literal["classification", "multilabel", "regression"]
CROP = 7 / 8  # of height and width, as ImageNet's crops of 224 are of 256 pixels
EXPECTED_VIEWS = (
    "None or 1 (one view), 'flip' or 2 (also mirrored), 5 or 10 (crops), or a list of functions of images [N, C, H, W]"
)


def make_views(views: Views) -> list[View]:
    """Returns functions from images [N, C, H, W] to as many images, one for each view.

    - None or 1: the images themselves.
    - "flip" or 2: the images, and their mirror images, left to right.
    - 5: the four corners and the centre, each 7/8 of height and width, enlarged bilinearly to the images' size.
    - 10: these five, and their mirror images.
    - a list of functions: what each of them returns; the images themselves only if one returns them.

    Raises:
        DataError: it is none of these.

    Example:
        >>> [view(torch.tensor([[[[1, 2]]]])).flatten().tolist() for view in make_views("flip")]
        [[1, 2], [2, 1]]
    """
    known = not isinstance(views, (bool, float)) and (views is None or isinstance(views, (str, int)))
    if known and views in (None, 1):
        return [unchanged]
    if known and views in ("flip", 2):
        return [unchanged, mirrored]
    if known and views in (5, 10):
        places = [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5)]
        crops: list[View] = [Crop(*place, mirror=mirror) for mirror in (False, True) for place in places]
        return crops[:views]  # type: ignore[misc]  # 5 or 10
    own = list(views) if isinstance(views, Sequence) and not isinstance(views, (str, bytes)) else []
    if not own or not all(callable(view) for view in own):
        raise DataError(f"views={shortened(repr(views), 80)}; expected {EXPECTED_VIEWS}")
    return own


def unchanged(images: Tensor) -> Tensor:
    """Returns the images."""
    return images


def mirrored(images: Tensor) -> Tensor:
    """Returns the images mirrored left to right."""
    return images.flip(-1)


class Crop:
    """A view: 7/8 of height and width at a place (0 is the top or the left, 1 the bottom or the right), enlarged again."""

    def __init__(self, down: float, right: float, *, mirror: bool = False):
        self.down, self.right, self.mirror = down, right, mirror

    def __call__(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        h, w = math.ceil(height * CROP), math.ceil(width * CROP)
        top, left = round((height - h) * self.down), round((width - w) * self.right)
        crop = images[..., top : top + h, left : left + w]
        crop = F.interpolate(crop, size=(height, width), mode="bilinear", align_corners=False)
        return crop.flip(-1) if self.mirror else crop


def views_of(views: Views) -> Callable[[Tensor], Iterator[Tensor]]:
    """Returns a function from images [N, C, H, W] to the views of them, one after the other, each of as many images.

    >>> [tuple(view.shape) for view in views_of(5)(torch.zeros(2, 3, 8, 8))]
    [(2, 3, 8, 8), (2, 3, 8, 8), (2, 3, 8, 8), (2, 3, 8, 8), (2, 3, 8, 8)]
    """
    made = make_views(views)
    return lambda images: (_seen(view, images) for view in made)


def _seen(view: View, images: Tensor) -> Tensor:
    seen: Any = view(images)
    if not isinstance(seen, Tensor) or seen.ndim != 4 or len(seen) != len(images):
        what = f"a tensor {list(seen.shape)}" if isinstance(seen, Tensor) else type(seen).__name__
        name = getattr(view, "__name__", type(view).__name__)
        raise DataError(f"view {name} made {what} of images {list(images.shape)}; expected as many images [N, C, H, W]")
    return seen


def averaged_task(task: str | None) -> AveragedTask:
    """Returns how outputs of a model of this task are averaged: as one of the kinds that `average_outputs` knows.

    Raises:
        DataError: the outputs are features, or nobody knows what they mean.
    """
    kinds: dict[str | None, AveragedTask] = {
        "classification": "classification",
        "ordinal": "classification",
        "multilabel": "multilabel",
        "regression": "regression",
    }
    if task not in kinds:
        what = "features for retrieval" if task == "metric" else "the outputs of a loss of your own"
        raise DataError(f"views= averages answers, and these are {what}; leave it out")
    return kinds[task]


def average_outputs(outputs: Sequence[Tensor], task: AveragedTask = "classification") -> Tensor:
    """Returns the mean of the views' outputs [N, K], again as scores of the same kind.

    Probabilities are averaged, not scores: for a classification, the softmax of the result is the mean softmax; for
    "multilabel", its sigmoid is the mean sigmoid. For "regression", it is the mean of the values.

    >>> average_outputs([torch.tensor([[0.0, 0.0]]), torch.tensor([[9.0, -9.0]])]).softmax(1).round(decimals=2).tolist()
    [[0.75, 0.25]]
    """
    stacked = torch.stack([output.float() for output in outputs])
    if len(outputs) == 1:
        return stacked[0]
    if task == "regression":
        return stacked.mean(0)
    count = math.log(len(outputs))
    if task == "multilabel":
        return F.logsigmoid(stacked).logsumexp(0) - F.logsigmoid(-stacked).logsumexp(0)
    return stacked.log_softmax(-1).logsumexp(0) - count


class ViewedModel(nn.Module):
    """A model whose output is the mean over several views of each image, see `make_views` and `average_outputs`."""

    def __init__(self, model: nn.Module, views: Views, task: AveragedTask = "classification"):
        super().__init__()
        self.model, self.views = model, views_of(views)
        self.task: AveragedTask = task

    def forward(self, images: Tensor) -> Any:
        """Returns the scores or values [N, K]; raises a DataError if a view doesn't return as many images."""
        return average_outputs([require_logits(self.model(seen)) for seen in self.views(images)], self.task)


def with_views(model: nn.Module, views: Views, task: AveragedTask = "classification") -> nn.Module:
    """Returns the model, or one that averages over several views of each image."""
    return model if len(make_views(views)) == 1 and views in (None, 1) else ViewedModel(model, views, task)
