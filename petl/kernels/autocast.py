"""The dtype in which linear layers and convolutions compute, with autocast and without."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor


def is_autocast_on(device: torch.device) -> bool:
    """Returns whether autocast is on for this device; the meta device has none."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Returns the dtype in which layers compute on this input: autocast's, if that is on, else the input's own."""
    return torch.get_autocast_dtype(x.device.type) if is_autocast_on(x.device) else x.dtype


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Returns a context in which autocast is off for this device."""
    return torch.autocast(device.type, enabled=False) if is_autocast_on(device) else contextlib.nullcontext()


def cast_for_autocast(x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Returns the input and the bias in the dtype in which the layer computes."""
    dtype = compute_dtype(x)
    return x.to(dtype), None if bias is None else bias.to(dtype)
