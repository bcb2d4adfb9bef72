"""Low-rank changes of whole weights: a class for each shape of weight."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from petl.graft.kinds import WeightGraft
from petl.kernels.buffers import reusable_buffer
from petl.kernels.low_rank import LowRankChange


class LowRank(WeightGraft):
    """``W + scale * up @ down``, with ``up`` [rows, r] and ``down`` [r, columns] over the weight seen as a matrix."""

    def __init__(self, weight: Tensor, rank: int, scale: float, *, dora: bool = False, param: str = "weight"):
        super().__init__()
        matrix = self.matrix(weight.detach())
        *batch, rows, columns = matrix.shape
        rank, self.scale, self.param = min(rank, rows, columns), scale, param
        self.down = random_down(matrix, *batch, rank, columns)
        self.up = nn.Parameter(torch.zeros(*batch, rows, rank, dtype=self.down.dtype, device=weight.device))
        self.magnitude = nn.Parameter(_row_norm(matrix.to(self.down.dtype))) if dora else None

    def matrix(self, weight: Tensor) -> Tensor:
        """Returns the weight as [rows, columns]: output channels by everything else."""
        return weight.flatten(1)

    def shaped(self, matrix: Tensor, weight: Tensor) -> Tensor:
        """Returns the matrix in the shape of ``weight``: the inverse of ``matrix``."""
        return matrix.view(weight.shape)

    def low_rank(self) -> LowRankChange | None:
        plain = type(self) is LowRank and self.magnitude is None
        return LowRankChange(self.up, self.down, self.scale) if plain else None

    def change(self, weight: Tensor) -> Tensor:
        add, matrix = torch.addmm if self.up.ndim == 2 else torch.baddbmm, self.matrix(weight)
        matrix = add(matrix, self.up, self.down, alpha=self.scale, out=reusable_buffer(matrix))
        if self.magnitude is not None:
            matrix = matrix * (self.magnitude / _row_norm(matrix.detach()))
        return self.shaped(matrix, weight)


class ExpertLowRank(LowRank):
    """A low-rank change for each expert of timm's CondConv2d, whose weight is [experts, flat kernel]."""

    def __init__(self, weight: Tensor, rank: int, scale: float, *, rows: int, dora: bool = False):
        self.rows = rows
        super().__init__(weight, rank, scale, dora=dora)

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.view(weight.shape[0], self.rows, -1)


class TransposedLowRank(LowRank):
    """A low-rank change of a transposed convolution, whose weight is [in, out / groups, h, w]."""

    def __init__(self, weight: Tensor, rank: int, scale: float, *, groups: int, dora: bool = False):
        self.groups = groups
        super().__init__(weight, rank, scale, dora=dora)

    def matrix(self, weight: Tensor) -> Tensor:
        return weight.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1).flatten(1)

    def shaped(self, matrix: Tensor, weight: Tensor) -> Tensor:
        grouped = matrix.view(self.groups, weight.shape[1], -1, *weight.shape[2:])
        return grouped.transpose(1, 2).flatten(0, 1)


def random_down(weight: Tensor, *shape: int) -> nn.Parameter:
    """Returns a random ``down`` of this shape, as a linear layer starts; at least float32, also on a half-precision weight."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    bound = 1 / math.sqrt(shape[-1])
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=weight.device).uniform_(-bound, bound))


def _row_norm(matrix: Tensor) -> Tensor:
    """Computes the norm of each row, [..., rows, 1], never zero."""
    return matrix.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(matrix.dtype).tiny)
