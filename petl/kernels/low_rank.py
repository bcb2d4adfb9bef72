"""A low-rank change of a weight: its factors, the merged weight, and the matrix products that its gradients need.

The plain way, ``F.linear(x, W + scale * up @ down)``, makes autograd compute the gradient of the whole weight and then project
it. The layers in ``low_rank_linear`` and ``low_rank_conv`` run the same forward and keep only the layer's input, or nothing
where no weight trains; their backward computes the merged weight a second time and takes the gradients of ``up`` and ``down``
through the ``rank`` features between them. They equal the plain gradients up to rounding.
"""

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
    """Returns ``W + scale * up @ down`` in the shape and memory format of ``weight``, in the precision of ``up``."""
    if up is None or down is None:
        return weight
    changed = torch.addmm(weight.to(up.dtype).flatten(1), up, down, alpha=scale).view(weight.shape)
    return in_memory_format_of(weight, changed)


def project_each(matrix: Tensor, batch: Tensor) -> Tensor:
    """Returns the product of ``matrix`` [r, c] with each [c, n] of ``batch`` [b, c, n]; ``torch.matmul`` would copy the batch."""
    return batched_matmul(matrix.expand(batch.shape[0], -1, -1), batch)


def batched_matmul(left: Tensor, right: Tensor) -> Tensor:
    """Returns ``torch.bmm(left, right)``; a batch of one goes through ``torch.mm``, which is faster."""
    return torch.mm(left[0], right[0])[None] if left.shape[0] == 1 else torch.bmm(left, right)
