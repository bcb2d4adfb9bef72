"""A model and random generators that are afterwards as they were before."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from petl.errors import StateError
from petl.wrapping.eval_mode import drop_eval_caches, in_eval

SEED = 0  # of a pass: datasets and loaders that draw random numbers give the same images in each call


@contextlib.contextmanager
def undisturbed(model: nn.Module, data: Any) -> Iterator[None]:
    """Inside, the model evaluates and random numbers begin at `SEED`; modes, devices and generators are then as before.

    Raises:
        StateError: the model has no values.
    """
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        raise StateError(f"this {type(model).__name__} is on the meta device and has no values; load them first")
    devices = {tensor.device for tensor in tensors}
    drop_eval_caches(model)  # of weights that may have changed since
    try:
        with rng_restored(data), in_eval(model):
            yield
    finally:
        drop_eval_caches(model)
        if len(devices) == 1 and {tensor.device for tensor in (*model.parameters(), *model.buffers())} != devices:
            model.to(devices.pop())


@contextlib.contextmanager
def rng_restored(data: Any) -> Iterator[None]:
    """Inside, Python's, numpy's and torch's generators start from `SEED`; these and the loader's own are then as before."""
    own = _generators(data)
    states = [(generator, generator.get_state()) for generator in own]
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            random.seed(SEED)
            np.random.seed(SEED)
            torch.manual_seed(SEED)
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            for generator, state in states:
                generator.set_state(state)


def _generators(data: Any) -> list[torch.Generator]:
    """Returns the generators of a loader and its samplers."""
    holders = (data, getattr(data, "sampler", None), getattr(getattr(data, "batch_sampler", None), "sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return [generator for generator in found if isinstance(generator, torch.Generator)]
