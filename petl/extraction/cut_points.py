"""Finds the cut points of a model: modules such that everything that trains runs in them or after them.

Cut points are found by recording the module calls of one forward, not by names. Whether the module at a cut point also receives,
in one tensor, all that later modules need is tried by `petl.extraction.tail_search`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from petl.graft.kinds import WeightGraft
from petl.sites.calls import CallRecorder, ModuleCall, kept_in
from petl.wrapping.eval_mode import in_eval


@dataclass(frozen=True)
class Placeholder:
    """A tensor's shape and type in a forward of ``batch`` images, and whether it was part of autograd's graph."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    batch: int
    requires_grad: bool = False

    def __call__(self, images: int) -> Tensor:
        """Returns a tensor without memory for so many images: NaN all over, or zeros where the type has no NaN."""
        first = self.shape[0] * images // self.batch if self.shape and self.shape[0] % self.batch == 0 else None
        value = torch.full(
            (), float("nan") if self.dtype.is_floating_point else 0, dtype=self.dtype, device=self.device
        )
        return value.expand(self.shape if first is None else (first, *self.shape[1:]))


def record_calls(model: nn.Module, images: Tensor) -> CallRecorder:
    """Records the calls of one forward in evaluation mode, with a `Placeholder` for each tensor."""
    batch = len(images)
    recorder = CallRecorder(lambda t: Placeholder(tuple(t.shape), t.dtype, t.device, batch, t.requires_grad))
    modules = ((name, module) for name, module in model.named_modules() if not isinstance(module, WeightGraft))
    with recorder.watching(modules), in_eval(model), torch.enable_grad():
        model(images)
    return recorder


@dataclass(frozen=True)
class CutPoint:
    """A point in a forward from which on a model can be trained alone, perhaps: where the module of ``visit`` begins.

    Args:
        visit: The call of the module whose input the features are.
        before: The outermost calls that have ended by then, to be skipped.
        below: All modules of these calls.
        later: The names of the modules that run only from here on.
    """

    visit: ModuleCall
    before: tuple[ModuleCall, ...]
    below: tuple[nn.Module, ...]
    later: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.visit.name

    @property
    def module(self) -> nn.Module:
        return self.visit.module

    def needs(self, name: str) -> bool:
        """Returns whether the features at this point may depend on the parameter or buffer of that name."""
        return not any(name.startswith(f"{later}.") for later in self.later)


def cut_points(model: nn.Module, images: Tensor) -> list[CutPoint]:
    """Returns the points before everything that trains and after at least one layer with weights, the deepest first."""
    recorder = record_calls(model, images)
    visits, trains = [call for call in recorder.calls if call.end], _first_trained(recorder)
    calls = [visit.module for visit in visits]
    points = []
    for visit in visits:
        over = [v for v in visits if v.end < visit.begin]
        possible = visit.begin < trains and _takes_batch(visit) and calls.count(visit.module) == 1
        if possible and any(_has_weights(v.module) for v in over):
            below = tuple(dict.fromkeys(v.module for v in over))
            later = tuple(v.name for v in visits if v.begin >= visit.begin and v.module not in below)
            points.append(CutPoint(visit, tuple(_outermost(over)), below, later))
    return points[::-1]


def _first_trained(recorder: CallRecorder) -> float:
    """Returns the time at which a module first received or returned a tensor that depends on anything that trains."""
    begins = [call.begin for call in recorder.calls if _any_trains((call.args, call.kwargs))]
    return min([*begins, *(call.end for call in recorder.finished if _any_trains(call.returned))], default=math.inf)


def _any_trains(tree: Any) -> bool:
    return any(kept.requires_grad for kept in kept_in(tree, Placeholder))


def _takes_batch(call: ModuleCall) -> bool:
    """Returns whether the module's first argument is one tensor with a row for each image."""
    first = next(iter(call.args), None)
    return isinstance(first, Placeholder) and first.shape[:1] == (first.batch,)


def _has_weights(module: nn.Module) -> bool:
    return any(p is not None and p.ndim > 1 for p in module._parameters.values())


def _outermost(visits: list[ModuleCall]) -> Iterator[ModuleCall]:
    end = 0
    for visit in visits:
        if visit.begin > end:
            end = visit.end
            yield visit
