"""Refuses backbones that recorded arguments would make much larger than timm's own."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration

# arguments that can't make a model large up to these values
HARMLESS_SIZES = {"num_classes": 25_000, "img_size": 1024, "in_chans": 64, "output_stride": 32, "out_indices": 64}
FREE_TENSORS = 3_000  # modules and tensors that every backbone may have
FREE_NUMBERS = 50_000_000  # elements of tensors that every backbone may have
# the sum of all sizes, and the largest factor: timm lists what all blocks get before it makes the first
MOST_IN_ARGUMENTS, LARGEST_FACTOR = 20_000, 1_000


class _TooLarge(Exception):
    """Recorded arguments make a backbone much larger than timm's own, or leave layers without a number."""


def refuse_huge(name: str, args: Mapping[str, Any], file_numbers: int) -> None:
    """Builds the backbone on the meta device; raises as soon as it is much larger than timm's own, or a layer is empty."""
    import timm

    if all(_is_harmless(key, value) for key, value in args.items()):
        return
    sizes = [*_numbers([value for key, value in args.items() if key != "num_classes" and "temperature" not in key])]
    factors = [one for one in sizes if isinstance(one, float)]
    if sum(sizes) - sum(factors) > MOST_IN_ARGUMENTS or max(factors, default=0) > LARGEST_FACTOR:
        raise _TooLarge(f"the sizes in its recorded arguments are more than {MOST_IN_ARGUMENTS:,} in all")
    with torch.device("meta"), _counted() as default_counts:
        timm.create_model(name, pretrained=False)
    parts, numbers = default_counts
    limits = max(FREE_TENSORS, 4 * parts), max(FREE_NUMBERS, 8 * numbers) + 2 * file_numbers
    with torch.device("meta"), _counted(*limits):
        timm.create_model(name, pretrained=False, **args)


def _is_harmless(name: str, value: Any) -> bool:
    """Returns whether an argument can neither make a backbone much larger nor leave a layer without a number."""
    if value is None or isinstance(value, (bool, str)):
        return True
    if "drop" in name and isinstance(value, (int, float)):
        return 0 <= value <= 1
    fewest = 0 if name == "num_classes" else 1
    sizes = value if isinstance(value, (list, tuple)) else [value]
    return bool(sizes) and all(type(one) is int and fewest <= one <= HARMLESS_SIZES.get(name, 0) for one in sizes)


def _numbers(value: Any) -> Iterator[float]:
    """Yields the numbers in a value, without their signs."""
    if isinstance(value, Mapping):
        value = [*value.values()]
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, (int, float)):
        yield abs(value)


@contextlib.contextmanager
def _counted(most_parts: float = math.inf, most_numbers: float = math.inf) -> Iterator[list[int]]:
    """A context that counts the modules and tensors that this thread creates, and their elements; raises at the limits."""
    thread, counts = threading.get_ident(), [0, 0]

    def count(module: nn.Module, name: str, part: nn.Module | Tensor | None) -> None:
        if threading.get_ident() != thread:
            return
        if isinstance(part, nn.Parameter) and not part.numel() and most_parts < math.inf:
            raise _TooLarge(f"its recorded arguments leave the layer's {name} without a number: {tuple(part.shape)}")
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
