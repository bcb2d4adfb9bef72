"""A real delta and its backbone, which files are tried on, and whether the backbone is as it was."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from petl.delta.file import read_delta
from tests.support import golden


class Victim:
    """A real delta, and the backbone that it belongs to."""

    def __init__(self, kind: str):
        self.kind = kind
        path = golden.path_of(kind)
        self.bytes = path.read_bytes()
        header, self.tensors = read_delta(path)
        self.recipe = {key: value for key, value in header.to_dict().items() if value is not None}
        self.renew()

    def renew(self) -> None:
        """Takes a fresh backbone: what an earlier file did to the last one is told once."""
        self.base = golden.backbone(self.kind)
        self.state = {key: value.clone() for key, value in self.base.state_dict().items()}
        self.looks = self.portrait()

    def portrait(self) -> list[Any]:
        """Classes, attributes, flags and hooks of the backbone."""
        modules = [
            (
                name,
                type(m),
                m.training,
                len(vars(m)),
                len(m._forward_hooks),
                len(m._forward_pre_hooks),
                len(m._parameters),
            )
            for name, m in self.base.named_modules()
        ]
        return [modules, [(id(p), p.requires_grad, p.grad is None) for p in self.base.parameters()]]

    def is_whole(self) -> bool:
        """Whether the backbone is as it was, to the bit."""
        state = self.base.state_dict()
        same = state.keys() == self.state.keys() and all(same_bits(state[key], self.state[key]) for key in state)
        return same and self.portrait() == self.looks


def same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    flat = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return torch.equal(*flat)
