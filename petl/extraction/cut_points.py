"""How deep a training step has to go: the points of a model below which nothing trains.

They are found by watching one forward, not by names: modules such that everything that trains runs in them or after them. Whether
such a module also receives, in one tensor, all that later modules need is tried by `petl.extraction.tail`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from petl.graft.kinds import WeightGraft
from petl.wrapping.modes import in_eval


@dataclass
class Visit:
    """One call of a module in a forward: when it began and ended, what it returned (without the values).

    ``cuts`` says that it was given the images' batch in one tensor first, before anything that trains had been used.
    """

    name: str
    module: nn.Module
    begin: int
    cuts: bool
    end: int = 0
    returned: Any = None


@dataclass(frozen=True)
class Empty:
    """A tensor's shape and type in a forward of ``batch`` images."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    batch: int

    def __call__(self, images: int) -> Tensor:
        """A tensor without memory for so many images: NaN all over, or zeros where the type has no NaN."""
        first = self.shape[0] * images // self.batch if self.shape and self.shape[0] % self.batch == 0 else None
        value = torch.full(
            (), float("nan") if self.dtype.is_floating_point else 0, dtype=self.dtype, device=self.device
        )
        return value.expand(self.shape if first is None else (first, *self.shape[1:]))


@dataclass
class Watch:
    """The visits of one forward in the order of their begin, and whether anything that trains has been used yet."""

    batch: int
    visits: list[Visit] = field(default_factory=list)
    clock: int = 0
    trains: bool = False

    def entering(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._look((args, kwargs))
            whole = bool(args) and isinstance(args[0], Tensor) and args[0].ndim > 0 and len(args[0]) == self.batch
            self.clock += 1
            self.visits.append(Visit(name, module, self.clock, whole and not self.trains))

        return hook

    def leaving(self, module: nn.Module, args: Any, output: Any) -> None:
        self._look(output)
        self.clock += 1
        visit = next(v for v in reversed(self.visits) if v.module is module and not v.end)
        visit.end, visit.returned = self.clock, tree_map(self._empty, output)

    def _look(self, tree: Any) -> None:
        self.trains = self.trains or any(isinstance(t, Tensor) and t.requires_grad for t in tree_leaves(tree))

    def _empty(self, leaf: Any) -> Any:
        return Empty(tuple(leaf.shape), leaf.dtype, leaf.device, self.batch) if isinstance(leaf, Tensor) else leaf


def watched(model: nn.Module, images: Tensor) -> list[Visit]:
    """The visits of one forward in evaluation mode."""
    watch, hooks = Watch(len(images)), []
    for name, module in model.named_modules():
        if not isinstance(module, WeightGraft):
            hooks.append(module.register_forward_pre_hook(watch.entering(name), with_kwargs=True))
            hooks.append(module.register_forward_hook(watch.leaving))
    try:
        with in_eval(model), torch.enable_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return [visit for visit in watch.visits if visit.end]


@dataclass(frozen=True)
class Cut:
    """A point in a model: the module ``visit``, the outermost visits that are over when it begins, and all their modules.

    ``later`` are the names of the modules that run only from here on.
    """

    visit: Visit
    before: tuple[Visit, ...]
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
    visits = watched(model, images)
    calls = [visit.module for visit in visits]
    found = []
    for visit in visits:
        over = [v for v in visits if v.end < visit.begin]
        if visit.cuts and calls.count(visit.module) == 1 and any(_has_weights(v.module) for v in over):
            below = tuple(dict.fromkeys(v.module for v in over))
            later = tuple(v.name for v in visits if v.begin >= visit.begin and v.module not in below)
            found.append(Cut(visit, tuple(_outermost(over)), below, later))
    return found[::-1]


def _has_weights(module: nn.Module) -> bool:
    return any(p is not None and p.ndim > 1 for p in module._parameters.values())


def _outermost(visits: list[Visit]) -> Iterator[Visit]:
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
