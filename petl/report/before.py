"""The model before it was adapted, to compare with: a copy without the delta, or a model that the caller gives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from petl.errors import PetlError
from petl.extraction.classifier_inputs import classifier_modules
from petl.report.images import ReportImages
from petl.report.model_passes import ModelPass, ReportModel
from petl.wrapping.lookup import bare, in_chans, record
from petl.wrapping.unwrap import unwrap


@dataclass(frozen=True)
class Before:
    """The model before adaptation, its images, and what it gives for them."""

    asked: ReportModel
    pictures: Tensor
    run: ModelPass


def model_before(model: nn.Module, base: bool | nn.Module) -> tuple[nn.Module | None, str]:
    """Returns the model to compare with, or None and the reason why there is none; ``model`` stays as it is.

    Raises:
        PetlError: ``base`` is neither True or False nor a model.
    """
    if isinstance(base, nn.Module):
        return bare(base), ""
    if not isinstance(base, bool):
        raise PetlError(f"base={base!r}; expected True, False, or a model to compare with")
    if not base:
        return None, "base=False leaves out the comparison with the backbone before adaptation"
    if record(model) is None:
        return None, "the model isn't wrapped, so there is no delta to take off and nothing to compare with"
    try:
        return unwrap(copy.deepcopy(bare(model))), ""
    except Exception as error:  # any model's own code runs when it is copied
        return None, f"the delta can't be taken off a copy of the model ({type(error).__name__}: {error})"


def pictures_for(model: nn.Module, pictures: Tensor) -> tuple[Tensor | None, str]:
    """Returns the images with the channels that a model takes: gray ones repeated; None and the reason where that can't be."""
    have = pictures.shape[1]
    try:
        wanted = in_chans(model)
    except PetlError:
        return pictures, ""
    if wanted == have:
        return pictures, ""
    if have == 1:
        return pictures.expand(-1, wanted, -1, -1), ""
    return None, f"the images have {have} channels, and the model before adaptation takes {wanted}"


def before_of(
    model: nn.Module | None, images: ReportImages, like: ReportModel, head: Any, each: Callable[[], object]
) -> tuple[Before | None, str]:
    """Returns what the model before gives for the images, or None and the reason why it can't be compared."""
    if model is None:
        return None, ""
    pictures, why = pictures_for(model, images.pictures)
    if pictures is None:
        return None, why
    try:
        model.to(like.device)
        asked = ReportModel(model.eval(), classifier_modules(model, head), like.device, like.batch_size)
        run = asked.whole_pass(pictures, each)
    except PetlError as error:
        return None, f"the model before adaptation can't take these images: {error}"
    if not bool(torch.isfinite(run.x).all()):
        return None, "the model before adaptation gives numbers that aren't finite"
    return Before(asked, pictures, run), ""
