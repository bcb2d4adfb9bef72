"""Whether a model answers each image with one row of scores, as all that trains it needs, and not with a map or tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from petl.data.first_image import map_fault
from petl.data.logits import logits
from petl.data.pipelines import pipeline as pipeline_for
from petl.errors import SiteError
from petl.extraction.classifier_inputs import classifier_modules
from petl.extraction.undisturbed import undisturbed
from petl.graft.values import input_dtype
from petl.wrapping.lookup import bare


def refuse_maps(verb: str, model: nn.Module, head: Any, pipeline: Any = None) -> None:
    """Raises a SiteError for a model with a classifier that gives scores for several places of an image.

    Its features can be averaged, so `petl.features` takes it, but what a verb says of it would hold for no model that can be
    trained. An empty image of the model's own size is tried; a model that can't take that one is left to the images.
    """
    plain = bare(model)
    if not classifier_modules(plain, head):
        return
    with undisturbed(plain, None), torch.no_grad():
        parameter = next(plain.parameters(), torch.empty(0))
        size = (pipeline or pipeline_for(plain))["input_size"]
        try:
            scores = logits(plain(torch.zeros(1, *size, device=parameter.device, dtype=input_dtype(plain))))
        except (AssertionError, RuntimeError, ValueError, TypeError, IndexError):
            return
    if scores is not None and scores.ndim > 2:
        raise SiteError(f"{verb} can't use this {type(plain).__name__}: {map_fault(plain, scores)}")
