"""Dotted names of modules: joining them, and which lies inside which."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def within(name: str, tops: Iterable[str]) -> bool:
    """Whether ``name`` is one of ``tops`` or lies below one."""
    return any(name == top or name.startswith(f"{top}.") for top in tops)


def topmost(names: Iterable[str]) -> list[str]:
    """Those of the names that lie below none of the others."""
    every = list(names)
    known = {*every}
    return [name for name in every if not any(above in known for above in ancestors(name))]


def ancestors(name: str) -> Iterator[str]:
    """The names of the modules around the one of this name, from the nearest on, but for the model itself."""
    while name := name.rpartition(".")[0]:
        yield name
