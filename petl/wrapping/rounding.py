"""Distinguishes rounding from other changes of a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from petl.wrapping.fingerprints import full_tensor

SAMPLE_SIZE = 64  # numbers of each tensor that are kept, to recognise rounding by an average of weights


def equal_up_to_rounding(value: Tensor, true: Tensor) -> bool:
    """Returns whether all numbers are equal up to the relative rounding error of a weighted sum of copies.

    Averages with decay d drift by up to an ulp over 1 - d; one step of an optimizer moves small numbers by far more than that.
    """
    if value.dtype != true.dtype or value.shape != true.shape:
        return False
    if not true.is_floating_point():  # counters, which an average truncates to whole numbers
        return not true.dtype.is_complex and bool(((value.double() - true.double()).abs() <= 1).all())
    eps = torch.finfo(true.dtype).eps
    bound = true.abs() * (4096 * eps if eps < 1e-4 else 4 * eps)
    return bool(((value == true) | ((value - true).abs() <= bound) | (value.isnan() & true.isnan())).all())


def some_numbers(tensor: Tensor) -> Tensor:
    """Returns at most ``SAMPLE_SIZE`` numbers from all over the tensor, in main memory."""
    flat = full_tensor(tensor.detach()).reshape(-1)
    return flat[:: max(1, -(-flat.numel() // SAMPLE_SIZE))].to("cpu", copy=True)
