"""Lets trainings that start from the same model, on the same images, compute the classifier in closed form once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor

from petl.training.head_layers import ClassLayers
from petl.training.head_start import HeadStart, HeadStarter


@dataclass
class KnownHead:
    """The classifier that the first of several trainings computed, and the others only write; empty before that."""

    start: HeadStart | None = None
    values: list[Tensor] = field(default_factory=list)

    def keep(self, start: HeadStart, layers: ClassLayers) -> None:
        """Takes a copy of what the layers hold now."""
        self.start, self.values = start, [tensor.detach().clone() for tensor in _tensors(layers)]

    @torch.no_grad()
    def write(self, layers: ClassLayers) -> None:
        """Writes the copy into the layers of another model."""
        for tensor, value in zip(_tensors(layers), self.values, strict=True):
            tensor.copy_(value)


_KNOWN: ContextVar[KnownHead | None] = ContextVar("known_head", default=None)


@contextlib.contextmanager
def sharing_head(known: KnownHead) -> Iterator[None]:
    """Inside, a training that begins takes its classifier from ``known``, or computes it and leaves it there.

    The caller answers for it that all of these trainings have the same model before their first update, the same training
    images, batch size, class weights and objective: the classifier depends on nothing else.
    """
    token = _KNOWN.set(known)
    try:
        yield
    finally:
        _KNOWN.reset(token)


def head_start(starter: HeadStarter, compute: Callable[[], HeadStart]) -> HeadStart:
    """Returns what ``compute`` finds, or writes what an earlier training found, if the caller shares it."""
    known = _KNOWN.get()
    if known is None or starter.plan.alone:  # a classifier that is the whole training has a row of the history, too
        return compute()
    if known.start is None:
        known.keep(compute(), starter.layers)
    else:
        known.write(starter.layers)
    assert known.start is not None
    return known.start


def _tensors(layers: ClassLayers) -> list[Tensor]:
    return [parameter for layer in layers.layers for parameter in layer.parameters()]
