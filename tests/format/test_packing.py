"""Numbers in 8, 4 and 3 bits: what stays exact, how near the others are, and that packing again changes nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from petl.format.packing import (
    GROUP,
    PACKED,
    PACKED_TYPES,
    is_packing,
    layouts,
    packed,
    packing_faults,
    packing_for,
    unpacked,
    unpacked_shapes,
)

CHANCE = torch.Generator().manual_seed(0)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=CHANCE)


TENSORS = {
    "wide": normal(8, 1000) * 1e-4,
    "tall": normal(1000, 8),
    "conv": normal(24, 16, 3, 3),
    "odd": normal(13, 61),
    "column": normal(700, 1),
    "half": normal(40, 40).half(),
    "double": normal(40, 40).double(),
    "zeros": torch.zeros(30, 30),
    "scales of all sizes": normal(64, 64) * torch.logspace(-12, 12, 64)[:, None],
    "long vector": normal(2000),
    "layer.running_var": normal(2000).square(),
    "small": normal(10, 10),
    "counter": torch.tensor(7),
    "whole numbers": torch.arange(5000).reshape(50, 100),
    "infinite": torch.full((40, 40), math.inf),
    "not a number": normal(40, 40).index_fill(0, torch.tensor(3), math.nan),
    "too large": normal(40, 40) * 1e30,
    "empty": torch.empty(0, 5),
}
EXACT = {"layer.running_var", "small", "counter", "whole numbers", "infinite", "not a number", "too large", "empty"}


def there_and_back(dtype: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    packing = packing_for(dtype, TENSORS)
    in_file = packed(TENSORS, packing)
    shapes = {key: tuple(tensor.shape) for key, tensor in in_file.items()}
    assert is_packing(packing) and not packing_faults(packing, shapes)
    assert unpacked_shapes(packing, shapes) == {key: tuple(tensor.shape) for key, tensor in TENSORS.items()}
    return packing, in_file, unpacked(in_file, packing)


@pytest.mark.parametrize("dtype", PACKED_TYPES)
def test_what_is_small_or_counts_stays_and_the_rest_is_near(dtype: str) -> None:
    packing, in_file, again = there_and_back(dtype)
    assert {*TENSORS} - {*packing["tensors"]} == EXACT | ({"long vector"} if dtype == "int8" else set())
    for key, tensor in TENSORS.items():
        if key not in packing["tensors"]:
            assert in_file[key] is tensor and again[key] is tensor
            continue
        layout = layouts(packing)[key]
        most, error = 2 ** (layout.bits - 1) - 1, again[key].double() - tensor.double()
        assert again[key].dtype == torch.float32 and again[key].shape == tensor.shape
        lost = float(error.norm() / tensor.double().norm().clamp(min=1e-30))
        assert lost < {127: 0.012, 7: 0.105, 3: 0.22}[most], (key, lost)
        if most == 127:  # the scale is that of a row's largest number, to eight bits
            assert bool((error.abs() <= 0.51 * tensor.double().abs().max() / most).all())


@pytest.mark.parametrize("dtype", PACKED_TYPES)
def test_packing_again_gives_the_same_bytes(dtype: str) -> None:
    packing, in_file, again = there_and_back(dtype)
    assert packing_for(dtype, again) == packing
    assert torch.equal(packed(again, packing)[PACKED], in_file[PACKED])


def test_an_eighth_of_float32() -> None:
    large = {"down": normal(8, 1280), "up": normal(1280, 8), "head": normal(100, 1280)}
    whole = sum(tensor.numel() * 4 for tensor in large.values())
    sizes = {dtype: packed(large, packing_for(dtype, large))[PACKED].numel() / whole for dtype in PACKED_TYPES}
    assert sizes["int8"] < 0.255 and sizes["int4"] < 0.135 and sizes["int3"] < 0.105


def test_bits_are_counted_by_hand() -> None:
    """Three bits each, the lowest first, -4 as 0; then the scale, 1."""
    row = torch.tensor([3.0, -3.0, 0.0, 1.0, -1.0, 2.0, -2.0, 3.0]).repeat(64)
    data = packed({"x": row.reshape(1, 512)}, {"bits": 3, "group": GROUP, "tensors": {"x": [1, 512]}})[PACKED]
    codes = [7, 1, 4, 5, 3, 6, 2, 7]
    expected = sum(code << 3 * place for place, code in enumerate(codes)).to_bytes(3, "little")
    assert bytes(data[:192].tolist()) == expected * 64
    assert data[192:].view(torch.bfloat16).tolist() == [1.0] * 8


GOOD: dict[str, Any] = {"bits": 4, "group": GROUP, "tensors": {"a": [10, 100]}}
BAD: dict[str, Any] = {
    "no table": [4],
    "other bits": {**GOOD, "bits": 2},
    "bits as a fraction": {**GOOD, "bits": 4.0},
    "another group": {**GOOD, "group": 1},
    "no group": {"bits": 4, "tensors": {}},
    "no tensors": {"bits": 4, "group": GROUP},
    "a shape of nothing": {**GOOD, "tensors": {"a": []}},
    "an empty shape": {**GOOD, "tensors": {"a": [0, 5]}},
    "a negative shape": {**GOOD, "tensors": {"a": [-10, -100]}},
    "a text as a shape": {**GOOD, "tensors": {"a": "10"}},
    "a truth as a size": {**GOOD, "tensors": {"a": [True, 100]}},
    "more than any disk has": {**GOOD, "tensors": {"a": [2**39, 2**39]}},
    "too many axes": {**GOOD, "tensors": {"a": [1] * 9}},
    "a long name": {**GOOD, "tensors": {"a" * 5000: [10, 100]}},
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_packing(what: str) -> None:
    assert is_packing(GOOD) and not is_packing(BAD[what])


def test_the_file_has_to_have_these_bytes() -> None:
    size = 500 + 2 * 10 * 2
    assert not packing_faults(GOOD, {PACKED: (size,), "b": (3,)})
    for shapes in ({}, {PACKED: (size - 1,)}, {PACKED: (size, 1)}, {PACKED: (size,), "a": (10, 100)}):
        assert packing_faults(GOOD, shapes)
    assert packing_faults(None, {PACKED: (size,)}) and not packing_faults(None, {"b": (3,)})
    assert packing_faults({**GOOD, "tensors": {PACKED: [10, 100]}}, {PACKED: (size,)})
