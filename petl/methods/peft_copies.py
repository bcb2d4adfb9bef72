"""Copies of the base's tensors, put back where peft wrote to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from petl.sites.names import joined
from petl.sites.sites import Site


class BaseCopies:
    """Copies of the tensors of the layers that peft goes onto: some of its inits write to them, and stop half-way."""

    def __init__(self, model: nn.Module, sites: Sequence[Site]):
        layers = {site.name: model.get_submodule(site.name) for site in sites}
        self.own = [(name, layer, leaf, t) for name, layer in layers.items() for leaf, t in _tensors(layer)]
        self.values = [tensor.detach().clone() for *_, tensor in self.own]

    def put_back(self) -> list[str]:
        """Gives the layers their tensors back; returns the names of those that differed."""
        written = []
        for (name, layer, leaf, tensor), value in zip(self.own, self.values, strict=True):
            there = dict(_tensors(layer)).get(leaf)
            if there is tensor and _same_bits(tensor, value):
                continue
            written.append(joined(name, leaf))
            cast(Any, layer._parameters if leaf in layer._parameters else layer._buffers)[leaf] = tensor
            tensor.data = value
        return written


def _tensors(layer: nn.Module) -> list[tuple[str, Tensor]]:
    return [(leaf, t) for leaf, t in (*layer._parameters.items(), *layer._buffers.items()) if t is not None]


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return (
        one.is_meta or torch.equal(one.detach(), other) or bool(((one == other) | (one.isnan() & other.isnan())).all())
    )
