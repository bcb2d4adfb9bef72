"""What `petl.start` trains in the end: methods, and the factor of their default rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from petl.methods.default import best_methods, method_text
from petl.methods.method import Method
from petl.methods.registry import RESERVED
from petl.trials.comparison import Comparison
from petl.trials.settings import is_closed
from petl.wrapping.lookup import record


@dataclass(frozen=True)
class Choice:
    """What is trained: methods, and the factor of their default rates; None for a classifier in closed form."""

    methods: tuple[Method, ...]
    factor: float | None


def name_of(model: nn.Module, methods: Sequence[Method]) -> str:
    """Returns "best" for the best recipe of the model, else the methods' names with what isn't their default."""
    return RESERVED if list(methods) == best_methods(model) else "+".join(method_text(method) for method in methods)


def choice_of(comparison: Comparison | None, methods: dict[str, list[Method]]) -> Choice:
    """Returns what to train: the winner of the comparison, else the first method that was advised, at default rates."""
    if comparison is None:
        first = tuple(next(iter(methods.values())))
        return Choice(first, None if is_closed(first) else 1.0)
    winner = record(comparison.best)
    assert winner is not None  # compare wraps each of them
    return Choice(tuple(winner.methods), comparison.winner.factor)
