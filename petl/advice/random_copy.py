"""The same network with random weights: what it reads of images shows what the pretrained weights add."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from petl.errors import PetlError
from petl.graft.kinds import Graft
from petl.sites.survey import survey_model
from petl.wrapping.backbone import build_backbone, describe_backbone
from petl.wrapping.lookup import bare, in_chans, record

BY_TIMM, BY_LAYERS = "timm's own initialisation", "the initialisation of its layers"


def random_copy(model: nn.Module, seed: int = 0) -> tuple[nn.Module, str]:
    """Returns the network with random weights, in evaluation mode, and by which initialisation; the model stays as it is.

    timm builds it anew where the model is timm's; else it is a copy whose layers are initialised again (and other matrices
    shuffled). Nothing is downloaded, and random generators are afterwards as before.
    """
    plain = bare(model)
    with _seeded(seed):
        built = _built_by_timm(plain)
        if built is not None:
            return built.eval(), BY_TIMM
        return _initialised_again(plain).eval(), BY_LAYERS


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Inside, all generators start from the seed; afterwards they are as before."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def _built_by_timm(model: nn.Module) -> nn.Module | None:
    """Returns timm's model of the same name and arguments without pretrained weights; None where timm can't build it so."""
    wrapped = record(model)
    try:
        known = wrapped.backbone if wrapped else describe_backbone(survey_model(model), None, None)
        channels = in_chans(model)
        if channels != known["in_chans"] or "in_chans" in known["args"]:
            known = {**known, "args": {**known["args"], "in_chans": channels}}
        return build_backbone(known, pretrained=False)
    except (PetlError, AttributeError, KeyError):
        return None


def _initialised_again(model: nn.Module) -> nn.Module:
    copied = copy.deepcopy(model)
    done: set[nn.Parameter] = set()
    for module in copied.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset) and not isinstance(module, Graft):
            with contextlib.suppress(Exception):  # a layer's own code
                reset()
                done |= set(module.parameters(recurse=False))
    for parameter in copied.parameters():
        if parameter not in done and parameter.ndim > 1:
            with torch.no_grad():
                order = torch.randperm(parameter.numel())
                parameter.copy_(parameter.flatten()[order.to(parameter.device)].view_as(parameter))
    return copied


@torch.no_grad()
def calibrate_norms(model: nn.Module, batches: Iterable[Tensor]) -> int:
    """Replaces the running statistics of a model's BatchNorms by those of the images, and returns how many were.

    Random weights with the statistics that layers start with (mean 0, variance 1) are no fair picture of the network: signals
    die or grow from layer to layer. Each batch is normalised by its own statistics, whose average stays.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]
    if not norms:
        return 0
    before: list[tuple[Any, Any]] = [(norm, norm.momentum) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average of all batches
        norm.train()
    try:
        for images in batches:
            if len(images) > 1:
                model(images)
    finally:
        for norm, momentum in before:
            norm.momentum = momentum
            norm.eval()
    return len(norms)
