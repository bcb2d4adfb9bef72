"""Dotted names of modules and tensors: joining them, which lies inside which, and patterns that match them exactly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator


def joined(name: str, leaf: str) -> str:
    """Returns the full name of the child, parameter or buffer ``leaf`` of the module ``name``, which is "" for the model itself.

    >>> joined("blocks.0", "weight"), joined("", "weight")
    ('blocks.0.weight', 'weight')
    """
    return f"{name}.{leaf}" if name else leaf


def within(name: str, tops: Iterable[str]) -> bool:
    """Returns whether ``name`` is one of ``tops`` or lies below one."""
    return any(name == top or name.startswith(f"{top}.") for top in tops)


def topmost(names: Iterable[str]) -> list[str]:
    """Returns those of the names that lie below none of the others."""
    every = list(names)
    known = {*every}
    return [name for name in every if not any(above in known for above in ancestors(name))]


def ancestors(name: str) -> Iterator[str]:
    """Yields the names of the modules around this one, from the nearest on, without the model itself."""
    while name := name.rpartition(".")[0]:
        yield name


def exact_pattern(names: Iterable[str]) -> str:
    """Returns one pattern that matches these full names and no other.

    >>> exact_pattern(["conv1", "layer1.0.conv1"])
    'conv1|layer1\\\\.0\\\\.conv1'
    """
    return "|".join(re.escape(name) for name in names)
