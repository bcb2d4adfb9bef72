"""How tensors lie in memory: strides and memory formats."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class MemoryLayout(NamedTuple):
    """The shape and the strides of a tensor."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]


def in_memory_format_of(weight: Tensor, adapted: Tensor) -> Tensor:
    """Returns ``adapted`` in the memory format of ``weight``: torch chooses kernels by it, and so the last bits of results.

    Axes of length one count as contiguous whatever their stride, and einsum leaves odd strides there. torch takes that for
    channels-last, where oneDNN's backward of a strided 1x1 convolution of few channels writes past its memory
    (uxlfoundation/oneDNN#6035).
    """
    is_channels_last = (
        weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    )
    if is_channels_last:
        return adapted.contiguous(memory_format=torch.channels_last)
    return adapted.contiguous().view(-1).view(adapted.shape)
