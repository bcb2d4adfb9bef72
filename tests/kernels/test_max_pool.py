"""Maximum pooling, against torch's."""

from __future__ import annotations

import torch
from torch import nn

from petl.kernels import max_pool


def test_pooling_is_torchs() -> None:
    x = torch.randn(2, 3, 11, 11, requires_grad=True)
    window = (3, 2, 1, 1, False)
    out, expected = max_pool.max_pool(x, window), nn.functional.max_pool2d(x, 3, 2, 1)
    assert torch.equal(out, expected)
    mine, theirs = (torch.autograd.grad((y**2).sum(), x)[0] for y in (out, expected))
    assert torch.equal(mine, theirs)
