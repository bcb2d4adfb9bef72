"""Chooses the blocks that run a second time in the backward, from the survey's shapes."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import torch
from torch import nn

from petl.sites.layers import is_layer
from petl.sites.names import ancestors, topmost, within
from petl.sites.survey import Survey

KEPT_SHARE = 1 / 16  # of the model's numbers: blocks of so many may run once, where that saves the most time


def choose_blocks(survey: Survey) -> list[str]:
    """Returns the names of modules to run again in the backward: with these, a step keeps the fewest numbers.

    Each candidate set holds the topmost modules whose layers return at most so many numbers. The best set counts: fewest
    numbers kept between its modules and inside the largest one while it runs again. Of it, those modules that are the most
    work for what they would keep run only once, up to ``KEPT_SHARE`` of the model's numbers: the last stages of a pyramid are
    as much work as the first ones, and keep a fraction.
    """
    inside = _sums_inside(survey, lambda layer, numbers: numbers)
    head = survey.head or []
    allowed = {name for name in survey.calls if name and not within(name, head) and name not in survey.overwriting}
    sizes = {name: numbers for name, numbers in inside.items() if name in allowed}
    candidates = (topmost(name for name, numbers in sizes.items() if numbers <= limit) for limit in {*sizes.values()})
    best = min(candidates, key=lambda names: _kept_numbers(survey, inside, names), default=[])
    work = _sums_inside(survey, _multiplications)
    most_work_first = sorted(best, key=lambda name: inside[name] / max(1, work[name]))
    kept = itertools.accumulate(inside[name] for name in most_work_first)
    return most_work_first[sum(1 for numbers in kept if numbers <= KEPT_SHARE * inside[""]) :]


def _sums_inside(survey: Survey, measure: Callable[[nn.Module, int], int]) -> Counter[str]:
    """Returns, for each module with layers inside, the sum of ``measure(layer, numbers that it returns)`` over these layers.

    Norms and activations don't count: their outputs aren't kept.
    """
    sums: Counter[str] = Counter()
    for name, call in survey.calls.items():
        if is_layer(layer := survey.modules[name]):
            around = ("", *ancestors(name)) if name else ()
            sums.update(dict.fromkeys(around, measure(layer, _numel(call.outputs))))
    return sums


def _multiplications(layer: nn.Module, numbers: int) -> int:
    """Estimates the layer's multiplications: for each number that it returns, one row of the weight."""
    return numbers * sum(p[0].numel() for p in layer._parameters.values() if p is not None and p.ndim)


def _kept_numbers(survey: Survey, inside: Counter[str], names: list[str]) -> int:
    """Counts the numbers kept outside the named modules, as their inputs, and inside the largest while it runs again."""
    covered = sum(inside[name] for name in names)
    inputs = sum(_numel(survey.calls[name].inputs[:1]) for name in names)
    return inside[""] - covered + inputs + max((inside[name] for name in names), default=0)


def _numel(shapes: list[tuple[int, ...]]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes)
