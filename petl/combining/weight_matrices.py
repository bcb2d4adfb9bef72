"""Weights as matrices, as `petl.LoRA` sees them, and the low-rank factors of a change."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from petl.graft.kinds import WeightGraft, grafts
from petl.methods.lora import LoRA
from petl.methods.lora_slices import SlicedLowRank
from petl.methods.lora_weights import LowRank

ROUNDING = 1e-5  # of the largest singular value of a change: what a low-rank change in float32 has beyond its rank


class Factors(NamedTuple):
    """``up`` [..., rows, r] and ``down`` [..., r, columns], float64, whose product is the best of rank r."""

    up: Tensor
    down: Tensor


def as_matrix(module: nn.Module, param: str, change: Tensor) -> Tensor:
    """Returns a change of a layer's weight as LoRA sees it, [..., rows, columns] in float64."""
    return LoRA(rank=1).graft_of(module, param, 1.0).matrix(change.double())


def best_factors(matrix: Tensor, rank: int) -> Factors:
    """Returns the factors of the matrix's best approximation of that rank (Eckart and Young), equally large."""
    left, values, right = _decomposed(matrix)
    roots = values[..., :rank].sqrt()
    return Factors(left[..., :rank] * roots[..., None, :], roots[..., :, None] * right[..., :rank, :])


def rank_for_energy(matrix: Tensor, energy: float) -> int:
    """Returns a rank whose approximation has this share of the squared norm, of stacked matrices of each.

    It is the smallest, rounded up to one of few numbers: layers of one rank are one method in a delta, which has 64 at most.
    """
    squares = _decomposed(matrix)[1].square()
    shares = squares.cumsum(-1) / squares.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    enough = (shares >= energy - 1e-12).int()
    first = torch.where(enough.any(-1), enough.argmax(-1), squares.shape[-1] - 1)
    smallest = int(first.max()) + 1
    step = max(1, 2 ** (smallest.bit_length() - 3))  # 1 2 3 4 5 6 7 8 10 12 14 16 20 24 28 32 40 ...
    return min(-(-smallest // step) * step, squares.shape[-1])


def isotropic(matrix: Tensor, rank: int | None) -> Tensor:
    """Returns the matrix with its singular values (at most ``rank``) set to their mean; those that are rounding become 0."""
    left, values, right = _decomposed(matrix)
    counted = values > ROUNDING * values[..., :1]
    if rank is not None:
        counted = counted & (torch.arange(values.shape[-1]) < rank)
    counted = counted.double()
    mean = (values * counted).sum(-1, keepdim=True) / counted.sum(-1, keepdim=True).clamp_min(1)
    return (left * (mean * counted)[..., None, :]) @ right


def _decomposed(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the singular value decomposition, the largest number of each left vector positive."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    largest = left.gather(-2, left.abs().argmax(-2, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0).to(left.dtype)
    return left * signs, values, right * signs.transpose(-1, -2)


def grown_rank(module: nn.Module, param: str) -> int | None:
    """Returns the largest rank that the grafts on this parameter can change it by; None where that isn't limited."""
    total = 0
    for _, graft in grafts(module):
        if isinstance(graft, WeightGraft) and graft.param == param:
            if isinstance(graft, SlicedLowRank):
                total += graft.down.shape[0] * graft.down.shape[1]
            elif isinstance(graft, LowRank) and graft.magnitude is None:
                total += graft.down.shape[-2]
            else:
                return None
    return total or None


def is_smaller_in_factors(matrix: Tensor, rank: int) -> bool:
    """Returns whether factors of this rank have fewer numbers than the matrix itself."""
    rows, columns = matrix.shape[-2:]
    return rank * (rows + columns) < rows * columns
