"""How tensors lie in memory: strides and memory formats."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class MemoryLayout(NamedTuple):
    """How a tensor lies in memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]


def in_memory_format_of(weight: Tensor, adapted: Tensor) -> Tensor:
    """``adapted`` in the memory format of ``weight``: kernels, and so the last bits of results, depend on it.

    Axes of one count as contiguous whatever their stride, which einsum leaves odd. torch reads that as channels last, where
    oneDNN's backward of a strided 1x1 convolution of few channels writes past its memory (uxlfoundation/oneDNN#6035).
    """
    last = weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    if last:
        return adapted.contiguous(memory_format=torch.channels_last)
    return adapted.contiguous().view(-1).view(adapted.shape)
