"""Convolutions to and from few channels, computed as matrix products: on a CPU, in float32, several times as fast as oneDNN."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petl.kernels.autocast import is_autocast_on


class GroupedConv2d(nn.Conv2d):
    """A grouped convolution with an odd kernel size that keeps height and width: [batch, in, h, w] to [batch, out, h, w]."""

    def __init__(self, channels: int, groups: int, kernel: int):
        super().__init__(channels, groups, kernel, padding=kernel // 2, groups=groups)

    def forward(self, input: Tensor) -> Tensor:  # named as torch's own layers name it
        outs, channels, kernel, _ = self.weight.shape
        taps = kernel**2
        products_are_large = taps >= 3 * channels  # much larger than the input
        if not _is_slow_in_torch(input) or products_are_large:  # in this order: a trace's sizes make no bool
            return super().forward(input)
        batch, _, *size = input.shape
        rows = self.weight.flip(2, 3).reshape(outs, channels, taps).mT.repeat(batch, 1, 1)
        products = torch.bmm(rows, input.reshape(batch * outs, channels, -1))  # of each tap with each position
        out = F.fold(products.view(batch, outs * taps, -1), (*size,), kernel, padding=kernel // 2)
        return out if self.bias is None else out + self.bias[:, None, None]


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution with bias: [batch, in, h, w] to [batch, out, h, w]."""

    def __init__(self, ins: int, outs: int):
        super().__init__(ins, outs, 1)

    def forward(self, input: Tensor) -> Tensor:  # named as torch's own layers name it
        if not _is_slow_in_torch(input) or self.bias is None:
            return super().forward(input)
        rows = self.weight.flatten(1).expand(input.shape[0], -1, -1)
        return torch.baddbmm(self.bias[:, None], rows, input.flatten(2)).unflatten(2, input.shape[2:])


def _is_slow_in_torch(x: Tensor) -> bool:
    """Returns whether torch's own convolutions are slow on this input; a trace gets them, as ``fold`` takes no traced sizes."""
    if torch.jit.is_tracing():
        return False
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and not is_autocast_on(x.device)
