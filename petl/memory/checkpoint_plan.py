"""Chooses the blocks that run again in the backward."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

import torch
from torch import nn

from petl.sites.sites import is_layer, within
from petl.sites.survey import Survey, ancestors, topmost

KEPT_SHARE = 1 / 16  # this share of the numbers may be kept rather than made again, where that saves the most time


def choose_blocks(found: Survey) -> list[str]:
    """Modules to run again in the backward: together they keep, with the largest of them run again, the fewest numbers.

    Each candidate set is made of the topmost modules whose inner results are at most some number. Of the best set, those
    that are the most work for what they would keep run once only, up to ``SLACK`` of the model's numbers: the last stages
    of a pyramid are as much work as the first ones, and keep a fraction.
    """
    inner = _sums_inside(found, lambda layer, numbers: numbers)
    head = found.head or []
    can = {name for name in found.calls if name and not within(name, head) and name not in found.overwriting}
    free = {name: count for name, count in inner.items() if name in can}
    candidates = (topmost(name for name, count in free.items() if count <= most) for most in {*free.values()})
    best = min(candidates, key=lambda chosen: _kept_numbers(found, inner, chosen), default=[])
    work = _sums_inside(found, _multiplications)
    dear = sorted(best, key=lambda name: inner[name] / max(1, work[name]))
    kept = itertools.accumulate(inner[name] for name in dear)
    return dear[sum(1 for count in kept if count <= KEPT_SHARE * inner[""]) :]


def _sums_inside(found: Survey, measure: Callable[[nn.Module, int], int]) -> Counter[str]:
    """For each module with layers inside, the sum of ``measure(layer, numbers that it returns)`` over these.

    What norms and activations return isn't kept.
    """
    inner: Counter[str] = Counter()
    for name, call in found.calls.items():
        if is_layer(layer := found.modules[name]):
            inner.update(dict.fromkeys(("", *ancestors(name)) if name else (), measure(layer, _numel(call.outputs))))
    return inner


def _multiplications(layer: nn.Module, numbers: int) -> int:
    """Multiplications, about: for each number a row of the weight."""
    return numbers * sum(p[0].numel() for p in layer._parameters.values() if p is not None and p.ndim)


def _kept_numbers(found: Survey, inner: Counter[str], chosen: list[str]) -> int:
    """Numbers kept outside the chosen modules, as their inputs, and inside the largest while it runs again."""
    covered = sum(inner[name] for name in chosen)
    kept = sum(_numel(found.calls[name].inputs[:1]) for name in chosen)
    return inner[""] - covered + kept + max((inner[name] for name in chosen), default=0)


def _numel(shapes: list[tuple[int, ...]]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes)
