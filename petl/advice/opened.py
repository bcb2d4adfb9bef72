"""The images that advice is about: training, own validation and new ones, read in one way, and the model that reads them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from petl import data as images
from petl.advice.single_images import image_channels
from petl.data.decoding import extensions
from petl.data.grouping import every_target
from petl.data.own_parts import own_parts
from petl.data.samples import refuse_sample
from petl.data.table_files import is_frame, is_table_file
from petl.data.table_sources import is_image_table
from petl.data.unlabelled import flat_folder, unlabelled_images, unlabelled_table
from petl.data.wrappers import pipeline_of
from petl.errors import DataError, PetlError
from petl.measures.enough_labels import LEAST
from petl.methods.input import Input
from petl.training.head_start import unaugmented
from petl.wrapping.lookup import bare, in_chans, wrapped_inside
from petl.wrapping.wrap import wrap

PATH_KINDS = (str, Path)
KEPT = ("crop_pct", "crop_mode", "interpolation", "window", "frame", "tiff")  # of a pipeline, whatever the channels


@dataclass(frozen=True)
class ImagePart:
    """One part of the images: ``dataset``, all that can be read; ``drawn``, the sample that is measured; ``rows``, their numbers.

    ``unreadable`` has the files that were left out, with the reasons.
    """

    name: str
    dataset: Any
    drawn: Any
    rows: list[int]
    unreadable: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Opened:
    """The parts "train", "own split" and "new", and the model that reads them.

    ``model`` is the user's, or where images have other channels a copy with `petl.Input`; ``channels`` is what the images have,
    ``expected`` what the user's model takes.
    """

    model: nn.Module
    parts: dict[str, ImagePart]
    channels: int
    expected: int

    @property
    def widened(self) -> bool:
        """Returns whether the model is a copy that takes other channels."""
        return self.channels != self.expected


def opened(
    model: nn.Module, data: Any, new: Any, pipeline: Mapping[str, Any] | None, sample: tuple[int, int], options: Any
) -> Opened:
    """Returns the images of ``data`` and ``new``, of each part a sample of so many images (``sample`` is this number and a seed).

    Raises:
        PetlError: the model is none, or the sample can't be. DataError: the images can't be opened, or have channels that the
            model can't be given.
    """
    refuse_sample(*sample)
    if not isinstance(model, nn.Module):
        raise PetlError(
            f"got a {type(model).__name__} as the model; expected one with weights, such as timm.create_model gives"
        )
    plain = bare(model)
    expected, how = in_chans(plain), dict(pipeline or images.pipeline(plain))
    train, rest = _learning_parts(data, how, options)
    channels = image_channels(train, expected)
    if channels != expected:
        plain = _with_channels(plain, channels, expected)
        how = _pipeline_like(plain, how)
        train, rest = _learning_parts(data, how, options)
    parts = {"train": _part("train", train, *sample)}
    if rest is not None and len(rest):
        parts["own split"] = _part("own split", rest, *sample)
    if new is not None:
        parts["new"] = _part("new", _new_images(new, pipeline_of(train) or how), *sample)
    return Opened(plain, parts, channels, expected)


def _learning_parts(data: Any, pipeline: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Any, Any]:
    train, rest = own_parts(data, pipeline, **options)
    return unaugmented(train), unaugmented(rest)


def _part(name: str, dataset: Any, count: int, seed: int) -> ImagePart:
    if not len(dataset):
        raise DataError(f"there are no {name} images; expected at least one")
    kept, bad = images.sift(dataset, training=name == "train")
    enough = max(count, _four_of_each(kept)) if name == "train" and len(kept) > count else count
    drawn: Any = images.sample(kept, enough, seed=seed)
    rows = [int(row) for row in drawn.indices] if drawn is not kept else list(range(len(kept)))
    return ImagePart(name, kept, drawn, rows, bad)


def _four_of_each(dataset: Any) -> int:
    """Returns how many images it takes that a sample has four of every class, as `petl.data.sample` draws; 0 without classes."""
    targets = every_target(dataset)
    return LEAST * len(np.unique(targets)) if targets.dtype.kind == "i" and targets.ndim == 1 else 0


def _with_channels(model: nn.Module, channels: int, expected: int) -> nn.Module:
    """Returns a copy of the model that takes this number of channels, as `petl.Input` starts."""
    if wrapped_inside(model):
        raise DataError(
            f"the images have {channels} channels, and this wrapped model takes {expected}; give images of {expected}, "
            f"or wrap a backbone with petl.Input(in_chans={channels})"
        )
    return wrap(copy.deepcopy(model), Input(in_chans=channels), head=False).eval()


def _pipeline_like(model: nn.Module, pipeline: Mapping[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {key: pipeline[key] for key in KEPT if key in pipeline}
    return images.pipeline(model, size=tuple(pipeline["input_size"][1:]), **changes)


def _new_images(new: Any, pipeline: Mapping[str, Any]) -> Any:
    """Returns a dataset of new images, with labels or without: a folder, a list of files, a table, a tensor or a Dataset."""
    if isinstance(new, Tensor):
        return torch.utils.data.TensorDataset(new)
    if isinstance(new, PATH_KINDS) and Path(new).is_file() and Path(new).suffix.lower() in extensions():
        return unlabelled_images([new], pipeline)
    if isinstance(new, PATH_KINDS) and (files := flat_folder(new)) is not None:
        return unlabelled_images(files, pipeline)
    if (
        isinstance(new, Sequence)
        and not isinstance(new, str)
        and new
        and all(isinstance(one, PATH_KINDS) for one in new)
    ):
        return unlabelled_images(new, pipeline)
    if is_table_file(new) or is_frame(new):
        alone = unlabelled_table(new, pipeline, None)
        if alone is not None:
            return alone
    if isinstance(new, PATH_KINDS) or is_image_table(new):
        split = images.held_out(new) or "."
        return unaugmented(images.dataset(new, pipeline, split=split))
    return unaugmented(own_parts(new, pipeline).train)
