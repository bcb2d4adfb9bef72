"""What a model makes of the images: features and pictures of each part, those of a random copy, and BatchNorm's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from petl.advice.opened import ImagePart, Opened
from petl.advice.random_copy import calibrate_norms, random_copy
from petl.data.class_labels import dataset_targets
from petl.data.samples import sample
from petl.errors import DataError, PetlError, SiteError
from petl.extraction.feature_set import Features
from petl.extraction.features import features
from petl.extraction.norm_moments import ChannelMoments, norm_moments, picture_batches, running_norms
from petl.extraction.single_answers import refuse_maps
from petl.measures.enough_labels import refuse_few_labels

PICTURE_SIDE = 32  # pixels of the small pictures
STATISTICS_IMAGES = 256  # images that BatchNorm's statistics are measured on


@dataclass(frozen=True)
class Measuring:
    """How images are measured: at most so many ``images`` of a part, and how they are read."""

    images: int
    seed: int
    head: bool | str | Sequence[str]
    batch_size: int
    workers: int
    cache: bool | str | Path | None
    progress: bool


@dataclass(frozen=True)
class MeasuredParts:
    """What was measured.

    Attributes:
        features: Of each part by its name, with pictures of 32 x 32 pixels, and those of ``train`` with blocks.
        random: Features of the copy with random weights [N, D], or None, and how it was initialised, or why there is none.
        moments: What BatchNorms receive of the training images and of new ones; {} of a model without.
    """

    features: dict[str, Features]
    random: tuple[Tensor | None, str]
    moments: dict[str, dict[str, ChannelMoments]]

    @property
    def train(self) -> Features:
        """The features of the training images."""
        return self.features["train"]

    @property
    def y(self) -> Tensor:
        """The class numbers of the training images, which `measured` has made sure of."""
        return self.features["train"].y  # type: ignore[return-value]  # as the line above says

    @property
    def pictures(self) -> Tensor:
        """The training images at 32 x 32 pixels."""
        return self.features["train"].inputs  # type: ignore[return-value]  # asked for


def measured(found: Opened, how: Measuring) -> MeasuredParts:
    """Returns what the model makes of the images.

    Raises:
        DataError: the training images don't have one class each, of two or more, or too few of one; features aren't finite.
    """
    train = found.parts["train"]
    _refuse_listed(train)
    refuse_maps("advise", found.model, how.head)
    read = {"train": _features_of(found.model, train, how, blocks=True)}
    refuse_few_labels("advise", read["train"].y, read["train"].classes)
    others = {name: part for name, part in found.parts.items() if name != "train"}
    read |= {name: _features_of(found.model, part, how, blocks=False) for name, part in others.items()}
    for name, one in read.items():
        if not torch.isfinite(one.x).all():
            raise DataError(f"the model gives features that aren't finite of the {name} images; are its weights whole?")
    compared = {name: part for name, part in found.parts.items() if name != "own split"}
    moments = {name: _moments(found.model, part, how) for name, part in compared.items()}
    return MeasuredParts(read, _random_features(found.model, train, how, read["train"]), moments)


def _refuse_listed(part: ImagePart) -> None:
    """Raises the error about labels before any image runs, where the dataset lists them."""
    listed = dataset_targets(part.dataset, reading=False)
    if listed is not None and (listed.dtype.kind != "i" or listed.ndim != 1 or listed.min(initial=0) >= 0):
        names = list(getattr(part.dataset, "classes", None) or [])
        refuse_few_labels("advise", torch.as_tensor(np.asarray(listed)), names)


def _features_of(model: nn.Module, part: ImagePart, how: Measuring, *, blocks: bool) -> Features:
    options: dict[str, Any] = {"batch_size": how.batch_size, "workers": how.workers, "cache": how.cache}
    options |= {"progress": how.progress, "head": how.head}
    if blocks:
        try:
            return features(model, part.drawn, blocks=True, inputs=PICTURE_SIDE, **options)
        except SiteError:  # of blocks that can't be read; what concerns the classifier is raised again below
            pass
    return features(model, part.drawn, inputs=PICTURE_SIDE, **options)


def _few(part: ImagePart, how: Measuring) -> object:
    """Returns the images that statistics are measured on."""
    return sample(part.drawn, STATISTICS_IMAGES, seed=how.seed)


def _moments(model: nn.Module, part: ImagePart, how: Measuring) -> dict[str, ChannelMoments]:
    if not running_norms(model):
        return {}
    return norm_moments(model, picture_batches(model, _few(part, how), batch_size=how.batch_size, workers=how.workers))


def _random_features(model: nn.Module, part: ImagePart, how: Measuring, read: Features) -> tuple[Tensor | None, str]:
    """Returns the features of the copy with random weights, or None with the reason."""
    try:
        copied, by = random_copy(model, how.seed)
        batches = picture_batches(
            copied, _few(part, how), batch_size=how.batch_size, workers=how.workers, shuffled=how.seed
        )
        if calibrate_norms(copied, batches):
            by = f"{by}, BatchNorm statistics of these images"
        found = _features_of(copied, part, how, blocks=False).x
    except (PetlError, RuntimeError, ValueError, TypeError) as error:  # any model's own code runs in a deep copy
        return None, f"no copy with random weights could be made ({str(error).splitlines()[0][:120]})"
    if len(found) != len(read) or not torch.isfinite(found).all():
        return None, "no copy with random weights could be made (its features aren't finite)"
    return found, by
