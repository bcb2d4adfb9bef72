"""What the runs of one method share in a process: the wrapped model before its first update, and the classifier's start."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from petl.training.known_heads import KnownHead

MOST_KEPT = 50_000_000  # numbers in the models that are kept, if there is more than one


@dataclass
class Templates:
    """Makes what doesn't depend on the rates once for each method and seed: a run gets a copy, with the same bits.

    In another process (pickled) it begins empty.
    """

    heads: dict[tuple[str, int], KnownHead] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)  # methods that leave nothing frozen whose features could be kept
    _kept: dict[tuple[str, int], tuple[nn.Module, Tensor]] = field(default_factory=dict)  # the last used one comes last

    def model(self, group: str, seed: int, make: Callable[[], nn.Module]) -> nn.Module:
        """Returns a copy of the wrapped model, which ``make`` makes where it isn't kept; torch's generator is as after that."""
        found = self._kept.pop((group, seed), None)
        if found is None:
            model = make()
            found = model, torch.get_rng_state()
        self._kept[group, seed] = found
        while len(self._kept) > 1 and sum(_numbers(model) for model, _ in self._kept.values()) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        torch.set_rng_state(found[1])
        return copy.deepcopy(found[0])

    def head(self, group: str, seed: int) -> KnownHead:
        """Returns where the classifier of a method on the fold of a seed is, or will be."""
        return self.heads.setdefault((group, seed), KnownHead())

    def __reduce__(self) -> tuple[Any, ...]:
        return Templates, ()


def _numbers(model: nn.Module) -> int:
    return sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
