"""What a backbone costs: parameters, multiply-adds and milliseconds an image."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from petl.data.first_image import output_of
from petl.extraction.flops import FlopCounter
from petl.extraction.undisturbed import undisturbed
from petl.graft.values import input_dtype

BATCH, REPEATS = 8, 3


@dataclass(frozen=True)
class Price:
    """What an image of the pipeline's size costs: ``params``, all parameters; ``gmacs``, billions of multiply-adds; time.

    Multiply-adds are those of convolutions, matrix products and attention. The time is the median of three passes of eight
    images, without reading them.
    """

    params: int
    gmacs: float
    ms_per_image: float = field(compare=False)


def price(model: nn.Module, pipeline: Mapping[str, Any], device: torch.device) -> Price:
    """Returns what a model costs for images of its pipeline; the model is afterwards as before."""
    with undisturbed(model, None), torch.no_grad():  # inference mode hides operations from the counter
        model.to(device)
        images = torch.zeros(BATCH, *pipeline["input_size"], device=device, dtype=input_dtype(model))
        with FlopCounter() as counter:
            output_of(model, images[:1])
        seconds = statistics.median(_seconds(model, images) for _ in range(REPEATS))
    params = sum(parameter.numel() for parameter in model.parameters())
    return Price(params, counter.total / 2e9, 1000 * seconds / BATCH)


def _seconds(model: nn.Module, images: Tensor) -> float:
    _finish(images.device)
    start = time.perf_counter()
    model(images)
    _finish(images.device)
    return time.perf_counter() - start


def _finish(device: torch.device) -> None:
    """Waits for what an accelerator has still to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
