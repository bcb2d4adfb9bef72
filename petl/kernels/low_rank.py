"""A low-rank change of a weight, as tensors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from petl.kernels.memory_layout import in_memory_format_of


class LowRankChange(NamedTuple):
    """A weight's low-rank change: ``scale * up @ down``, with ``up`` [out, r] and ``down`` [r, everything else]."""

    up: Tensor
    down: Tensor
    scale: float


def merged_weight(weight: Tensor, up: Tensor | None, down: Tensor | None, scale: float) -> Tensor:
    """``W + scale * up @ down`` in the shape and memory format of ``weight``, in the precision of ``up``."""
    if up is None or down is None:
        return weight
    changed = torch.addmm(weight.to(up.dtype).flatten(1), up, down, alpha=scale).view(weight.shape)
    return in_memory_format_of(weight, changed)


def project_each(rows: Tensor, pixels: Tensor) -> Tensor:
    """[r, c] times [batch, c, positions]; ``torch.matmul`` would copy the larger one."""
    return batched_matmul(rows.expand(pixels.shape[0], -1, -1), pixels)


def batched_matmul(ones: Tensor, others: Tensor) -> Tensor:
    """``torch.bmm``, which is slower than ``torch.mm`` where there is but one product."""
    return torch.mm(ones[0], others[0])[None] if ones.shape[0] == 1 else torch.bmm(ones, others)
