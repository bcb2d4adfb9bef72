"""Whole numbers of a scale: chooses scales, rounds to them, and writes few bits as bytes."""

from __future__ import annotations

import torch
from torch import Tensor

Ends = tuple[int, int]  # the lowest and the highest whole number
# of the largest number: where a group may end
NARROWER = (1.0, 0.95, 0.9, 0.86, 0.82, 0.78, 0.74, 0.7, 0.66, 0.62, 0.58)


def widest_scales(groups: Tensor, ends: Ends) -> Tensor:
    """Returns the scales [rows, groups, 1] with which each group's largest number is the last whole number."""
    return _rounded(groups.abs().amax(-1, keepdim=True) / ends[1])


def best_scales(groups: Tensor, ends: Ends) -> Tensor:
    """Returns the scales that lose least: the widest, or one whose lower end is at the group's largest number, or cuts it off.

    The lower end is one whole number further out than the upper one, so that scale may be negative.
    """
    place = groups.abs().argmax(-1, keepdim=True)
    farthest = groups.gather(-1, place) / ends[0]
    best = widest_scales(groups, ends)
    least = _lost(groups, best, ends)
    for share in NARROWER:
        scales = _rounded(farthest * share)
        lost = _lost(groups, scales, ends)
        best, least = torch.where(lost < least, scales, best), torch.minimum(lost, least)
    return best


def _rounded(scales: Tensor) -> Tensor:
    return scales.to(torch.bfloat16).float()


def _lost(groups: Tensor, scales: Tensor, ends: Ends) -> Tensor:
    """Returns the squared error of each group."""
    return (whole_numbers(groups, scales, ends) * scales - groups).square().sum(-1, keepdim=True)


def whole_numbers(groups: Tensor, scales: Tensor, ends: Ends) -> Tensor:
    return torch.where(scales != 0, groups / scales, 0.0).nan_to_num(0.0).round().clamp(*ends)


def bits_as_bytes(numbers: Tensor, bits: int) -> Tensor:
    """Returns whole numbers below ``2**bits`` as bytes, the lowest bits first."""
    if bits == 8:
        return numbers
    places = torch.arange(bits)
    lone = ((numbers.to(torch.int16)[:, None] >> places) & 1).reshape(-1).to(torch.uint8)
    full = torch.nn.functional.pad(lone, (0, -len(lone) % 8)).reshape(-1, 8)
    return (full << torch.arange(8, dtype=torch.uint8)).sum(1).to(torch.uint8)


def bytes_as_bits(data: Tensor, bits: int, count: int) -> Tensor:
    """Returns the first ``count`` whole numbers of ``bits`` bits."""
    if bits == 8:
        return data
    lone = ((data[:, None].to(torch.int16) >> torch.arange(8)) & 1).reshape(-1)[: count * bits]
    return (lone.reshape(count, bits) << torch.arange(bits)).sum(1)
