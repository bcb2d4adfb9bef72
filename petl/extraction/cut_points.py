"""How deep a training step has to go: the points of a model below which nothing trains.

They are found by watching one forward, not by names: modules such that everything that trains runs in them or after them. Whether
such a module also receives, in one tensor, all that later modules need is tried by `petl.extraction.tail`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from petl.graft.kinds import WeightGraft
from petl.sites.calls import CallRecorder, ModuleCall, kept_in
from petl.wrapping.modes import in_eval


@dataclass(frozen=True)
class Placeholder:
    """A tensor's shape and type in a forward of ``batch`` images, and whether it was part of autograd's graph."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    batch: int
    requires_grad: bool = False

    def __call__(self, images: int) -> Tensor:
        """A tensor without memory for so many images: NaN all over, or zeros where the type has no NaN."""
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
class Cut:
    """A point in a model: the call ``visit`` of a module, the outermost calls that have ended before it, and all their modules.

    ``later`` are the names of the modules that run only from here on.
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
        """Whether what goes into the cut may depend on the parameter or buffer of that name."""
        return not any(name.startswith(f"{later}.") for later in self.later)


def cuts(model: nn.Module, images: Tensor) -> list[Cut]:
    """The points that may do, the deepest first: before anything that trains, and after at least one layer with weights."""
    recorder = record_calls(model, images)
    visits, trains = [call for call in recorder.calls if call.end], _first_trained(recorder)
    calls = [visit.module for visit in visits]
    found = []
    for visit in visits:
        over = [v for v in visits if v.end < visit.begin]
        may = visit.begin < trains and _takes_batch(visit) and calls.count(visit.module) == 1
        if may and any(_has_weights(v.module) for v in over):
            below = tuple(dict.fromkeys(v.module for v in over))
            later = tuple(v.name for v in visits if v.begin >= visit.begin and v.module not in below)
            found.append(Cut(visit, tuple(_outermost(over)), below, later))
    return found[::-1]


def _first_trained(recorder: CallRecorder) -> float:
    """The time at which a module first received or returned a tensor that depends on anything that trains."""
    begins = [call.begin for call in recorder.calls if _any_trains((call.args, call.kwargs))]
    return min([*begins, *(call.end for call in recorder.finished if _any_trains(call.returned))], default=math.inf)


def _any_trains(tree: Any) -> bool:
    return any(kept.requires_grad for kept in kept_in(tree, Placeholder))


def _takes_batch(call: ModuleCall) -> bool:
    """Whether the module's first argument is one tensor with a row for each image."""
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


def share(model: nn.Module, cut: Cut, images: Tensor) -> float:
    """The part of a forward's multiplications that lies below the cut, 0 to 1."""
    below: list[int] = []
    with in_eval(model), torch.no_grad(), Operations() as counter:
        handle = cut.module.register_forward_pre_hook(lambda *_: below.append(counter.total))
        try:
            model(images)
        finally:
            handle.remove()
    return below[0] / max(counter.total, 1)


class Operations(TorchDispatchMode):
    """Counts multiplications and additions by torch's own formulas; torch's own mode also hooks modules, which some refuse."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.total += count(*args, **(kwargs or {}), out_val=out) if count else 0
        return out


def hooked(model: nn.Module) -> set[nn.Module]:
    """The modules with hooks that see each forward: stepped over, they would see tensors without values, or nothing."""
    return {m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks}


def restless(model: nn.Module) -> set[nn.Module]:
    """The modules that drop values or move statistics when the model is in training mode."""
    with in_eval(model):
        model.train()
        return {m for m in model.modules() if m.training and (_drops(m) or "running_mean" in m._buffers)}


def _drops(module: nn.Module) -> bool:
    rates = [getattr(module, name, 0.0) for name in ("drop_prob", "drop_rate", "prob")]  # timm's names
    rates += [module.p] if isinstance(module, nn.modules.dropout._DropoutNd) else []
    return any(isinstance(rate, (int, float)) and rate > 0 for rate in rates)
