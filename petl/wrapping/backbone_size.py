"""Refuses backbones that recorded arguments would make out of proportion to timm's own."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration

HARMLESS_SIZES = {
    "num_classes": 25_000,
    "img_size": 1024,
    "in_chans": 64,
    "output_stride": 32,
    "out_indices": 64,
}  # make nothing large
FREE_TENSORS = 3_000  # what a header's arguments may make of any backbone, at least
FREE_NUMBERS = 50_000_000


class _TooLarge(Exception):
    """Recorded arguments make a backbone out of proportion."""


def refuse_huge(name: str, args: Mapping[str, Any], file_numbers: int) -> None:
    """Tries the arguments without memory, and stops where they make the backbone out of proportion to timm's own."""
    import timm

    if all(_largest(value) <= HARMLESS_SIZES.get(key, 0) for key, value in args.items()):
        return
    with torch.device("meta"), _counted() as plain:
        timm.create_model(name, pretrained=False)
    limits = max(FREE_TENSORS, 4 * plain[0]), max(FREE_NUMBERS, 8 * plain[1]) + 2 * file_numbers
    with torch.device("meta"), _counted(*limits):
        timm.create_model(name, pretrained=False, **args)


def _largest(value: Any) -> float:
    """The largest number in a value that isn't a switch or a rate between 0 and 1."""
    if isinstance(value, Mapping):
        value = [*value.values()]
    if isinstance(value, (list, tuple)):
        return max(map(_largest, value), default=0)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0
    return 0 if isinstance(value, float) and 0 <= value <= 1 else abs(value)


@contextlib.contextmanager
def _counted(most_parts: float = math.inf, most_numbers: float = math.inf) -> Iterator[list[int]]:
    """Counts modules, parameters and buffers, and the numbers in them, as this thread makes them; stops at the limits."""
    me, counts = threading.get_ident(), [0, 0]

    def count(module: nn.Module, name: str, part: nn.Module | Tensor | None) -> None:
        if threading.get_ident() != me:
            return
        counts[0] += 1
        counts[1] += part.numel() if isinstance(part, Tensor) else 0
        if counts[0] > most_parts or counts[1] > most_numbers:
            raise _TooLarge(
                f"its recorded arguments make it more than {most_parts:,} parts or {most_numbers:,} numbers, "
                f"out of proportion to what timm builds by that name"
            )

    handles = [
        registration.register_module_parameter_registration_hook(count),
        registration.register_module_buffer_registration_hook(count),
        registration.register_module_module_registration_hook(count),
    ]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
