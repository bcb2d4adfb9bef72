"""ReLU that keeps a bit for each number, against torch's."""

from __future__ import annotations

import pytest
import torch

from petl.kernels import relu_mask


@pytest.mark.parametrize("high", [6.0, float("inf")])
@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (3, 5), (1, 3, 5, 7)])
@pytest.mark.parametrize("inplace", [True, False])
def test_a_gate_is_relu(shape: tuple[int, ...], high: float, inplace: bool) -> None:
    x = (torch.randn(shape) * 5).requires_grad_()
    out, slot = relu_mask.clamp_with_mask(x * 1, high, inplace)
    assert torch.equal(out, x.clamp(0, high))
    assert slot is not None and slot.mask is not None
    assert (slot.mask.numel() < x.numel()) == slot.is_packed == (x.numel() % 8 == 0)
    weights = torch.randn(shape)
    (mine,) = torch.autograd.grad((out * weights).sum(), x)
    assert torch.equal(mine, weights * ((x > 0) & (x < high)))
