"""The dtype in which layers compute, under autocast and without."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor


def is_autocast_on(device: torch.device) -> bool:
    """Whether autocast is on for this device; the meta device has none."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type that linear layers and convolutions compute in on this input: autocast's, if that is on, else its own."""
    return torch.get_autocast_dtype(x.device.type) if is_autocast_on(x.device) else x.dtype


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast off inside, where it is on."""
    return torch.autocast(device.type, enabled=False) if is_autocast_on(device) else contextlib.nullcontext()


def cast_for_autocast(x: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Inputs in the type that linear layers and convolutions compute in."""
    dtype = compute_dtype(x)
    return x.to(dtype), None if bias is None else bias.to(dtype)
