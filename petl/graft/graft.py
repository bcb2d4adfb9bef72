"""Grow a subclass onto a module and take it off again: the only place in petl that makes classes.

The module keeps its identity, name, hooks and base parameters under their old keys. Its class becomes a run-time
subclass of its own class (the idiom of ``torch.nn.utils.parametrize``), which answers a grafted parameter with the
adapted tensor and calls input and output grafts around the class's own ``forward``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

from torch import nn

from petl.errors import SiteError, StateError
from petl.graft.classes import (
    CallsGrafts,
    ClassSpec,
    HeldInEval,
    RecurrentWeights,
    RuntimeClass,
    base_class,
    fast_paths,
    is_held_in_eval,
)
from petl.graft.computed_weights import check_known
from petl.graft.folding import fold
from petl.graft.kinds import CONTAINERS, FastPath, Graft, InputGraft, OutputGraft, WeightGraft, grafts
from petl.graft.values import adapted_property

FUSES = ("fuse", "reparameterize", "switch_to_deploy")  # what timm.utils.reparameterize_model calls on modules


def grow(module: nn.Module, name: str, graft: Graft) -> None:
    """Put ``graft`` onto ``module`` as the child ``name``; several grafts work in the order in which they were grown."""
    if hasattr(module, name):
        raise SiteError(
            f"{base_class(module).__name__} already has an attribute {name!r}, so nothing of that name can grow on it: "
            f"give each site to one method of a kind only"
        )
    if isinstance(module, CONTAINERS):
        raise SiteError(
            f"{base_class(module).__name__} runs every child that it has, so no {name!r} can grow on it; name modules inside it"
        )
    if isinstance(graft, WeightGraft):
        check_known(module, graft.param)
    module.add_module(name, graft)
    graft.train(module.training)
    _update_class(module, still=is_held_in_eval(module))


def hold_in_eval(module: nn.Module) -> None:
    """Keep ``module`` and all inside it in evaluation mode for good, also under ``model.train()``."""
    _update_class(module, still=True)
    module.eval()


def add_fast_paths(module: nn.Module, *more: type[FastPath]) -> None:
    """Let ``module`` run its forward in these ways too; those that it has already stay as they are.

    An activation that two models share is given its way by both.
    """
    look = getattr(module, "_petl_spec", None)
    before = look or ClassSpec(type(module))
    cast(Any, module).__class__ = _subclass(before._replace(ways=tuple(dict.fromkeys((*before.ways, *more)))))


def fold_before_fusing(model: nn.Module) -> None:
    """Let every module below ``model`` that can fuse itself fold first what has grown inside it."""
    for module in [*model.modules()][1:]:
        if _fuses(type(module)) and any(grafts(part) for part in module.modules()):
            _update_class(module, still=is_held_in_eval(module))


def _update_class(module: nn.Module, still: bool) -> None:
    """Give ``module`` the run-time class that its present grafts ask for."""
    found = [graft for _, graft in grafts(module)]
    params = frozenset(graft.param for graft in found if isinstance(graft, WeightGraft))
    around = any(isinstance(graft, (InputGraft, OutputGraft)) for graft in found)
    base = base_class(module)
    recurrent = bool(params) and issubclass(base, nn.RNNBase)
    module.__class__ = _subclass(ClassSpec(base, params, around, still, recurrent, fast_paths(module)))


@functools.cache
def _subclass(look: ClassSpec) -> type[nn.Module]:
    outer, inner = ([way for way in look.ways if way.outer is where] for where in (True, False))
    own = ((RecurrentWeights, look.recurrent), (HeldInEval, look.still), (RuntimeClass, True))
    mixins = [*outer, *([CallsGrafts] if look.around else []), *inner, *(mixin for mixin, on in own if on)]
    base = look.base
    body = {param: adapted_property(param) for param in look.params}
    body |= {call: _fusing(base, call) for call in _fuses(base)}
    body |= _forward_like(base, mixins)
    body |= {
        "_petl_spec": look,
        "_petl_rebuild": staticmethod(_rebuild),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
    }
    return cast("type[nn.Module]", type(base.__name__, (*mixins, base), body))


def _forward_like(base: type[nn.Module], mixins: Sequence[type]) -> dict[str, Any]:
    """A ``forward`` that runs the first of the mixins' and has the signature, name and docstring of ``base``'s own.

    torch.fx, torch.export and training loops that choose columns by the arguments' names read these.
    """
    first = next((mixin for mixin in mixins if hasattr(mixin, "forward")), None)
    if first is None:
        return {}
    run = first.forward  # type: ignore[attr-defined]  # looked for above

    @functools.wraps(base.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return run(self, *args, **kwargs)

    return {"forward": forward}


def _fuses(cls: type[nn.Module]) -> list[str]:
    return [call for call in FUSES if callable(getattr(cls, call, None))]


def _fusing(base: type[nn.Module], call: str) -> Callable[[Any], Any]:
    """``base``'s own ``fuse``, on plain weights; what has grown around the module is carried to what comes out of it.

    Some read the weights, some write to them, some drop the module: only the first would be right with grafts inside.
    """

    def fuse(self: nn.Module) -> Any:
        around = [(name, graft) for name, graft in grafts(self) if not isinstance(graft, WeightGraft)]
        inside = [
            f"{n}.{name}"
            for n, m in self.named_modules()
            if n
            for name, g in grafts(m)
            if not isinstance(g, WeightGraft)
        ]
        if inside:
            raise StateError(
                f"{base.__name__}.{call}() would lose {', '.join(inside[:3])}, which can't be folded into a weight; "
                f"use the model as it is, or train a method that folds, such as 'lora'"
            )
        for name, _ in around:
            delattr(self, name)
        for part in [part for part in self.modules() if grafts(part)]:
            fold(part)
        given = getattr(base, call)(self)
        for name, graft in around:
            grow(given if isinstance(given, nn.Module) else self, name, graft)
        return given

    return fuse


def _rebuild(*look: Any) -> nn.Module:
    cls = _subclass(ClassSpec(*look))
    return cls.__new__(cls)
