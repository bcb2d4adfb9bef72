"""Fingerprints of tensors: every change is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import petl
from tests.support.zoo import make


def test_fingerprints_tell_types_shapes_and_bits_apart() -> None:
    from petl.wrapping.fingerprints import combined_fingerprint, fingerprint

    one = torch.arange(6.0)
    assert fingerprint(one) == fingerprint(one.clone()) == fingerprint(nn.Parameter(torch.arange(6.0)))
    others = [one.view(2, 3), one.view(torch.int32), -one, one.double(), one[:5], torch.arange(6.0).flip(0)]
    assert len({fingerprint(t) for t in (one, *others)}) == 1 + len(others)
    strided = torch.arange(12.0).view(2, 6)
    assert fingerprint(strided.T) == fingerprint(strided.T.contiguous())
    assert fingerprint(torch.tensor(0.0)) != fingerprint(torch.tensor(-0.0))
    assert (
        combined_fingerprint({"a": "1", "b": "2"})
        == combined_fingerprint({"b": "2", "a": "1"})
        != combined_fingerprint({"a": "2", "b": "1"})
    )


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "one sign": lambda t: t[0, 0].neg_(),
    "every sign": lambda t: t.neg_(),
    "rows in another order": lambda t: t.copy_(t.flip(0)),
    "columns in another order": lambda t: t.copy_(t.roll(1, 1)),
    "one bit": lambda t: t.view(torch.int32)[3, 5].bitwise_xor_(1),
    "not a number": lambda t: t[1, 1].fill_(float("nan")),
    "through numpy": lambda t: t.numpy().__setitem__((2, 2), 7.0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_frozen_tensor_is_seen(change: str) -> None:
    model = petl.wrap(make("vit"), "lora", rank=2)
    made, weight = petl.record(model), model.blocks[1].mlp.fc1._parameters["weight"]
    assert made.moved() == []
    kept = weight.detach().clone()
    CHANGES[change](weight.detach())
    assert made.moved() == ["blocks.1.mlp.fc1.weight"]
    weight.detach().copy_(kept)
    assert made.moved() == []
