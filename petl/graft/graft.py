"""Grows grafts onto a module: the only file of petl that makes classes at run time.

The module keeps its identity, name, hooks and base parameters under their old keys. Its class becomes a run-time
subclass of its own class (the idiom of ``torch.nn.utils.parametrize``), which returns the adapted tensor for a grafted
parameter and calls input and output grafts around the class's own ``forward``.
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
    """Puts ``graft`` onto ``module`` as the child ``name``; several grafts work in the order in which they were grown.

    Raises:
        SiteError: the name is taken, or nothing can grow on a module of this class.
    """
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
    _update_class(module, held=is_held_in_eval(module))


def hold_in_eval(module: nn.Module) -> None:
    """Keeps ``module`` and all inside it in evaluation mode for good, also under ``model.train()``."""
    _update_class(module, held=True)
    module.eval()


def add_fast_paths(module: nn.Module, *more: type[FastPath]) -> None:
    """Lets ``module`` run its forward on these paths too; those that it has already stay as they are.

    An activation that two models share gets its path from both.
    """
    spec = module._petl_spec if isinstance(module, RuntimeClass) else ClassSpec(type(module))
    paths = tuple(dict.fromkeys((*spec.fast_paths, *more)))
    cast(Any, module).__class__ = _subclass(spec._replace(fast_paths=paths))


def fold_before_fusing(model: nn.Module) -> None:
    """Lets every module below ``model`` that can fuse itself fold the grafts inside it first."""
    for module in [*model.modules()][1:]:
        if _fuse_methods(type(module)) and any(grafts(part) for part in module.modules()):
            _update_class(module, held=is_held_in_eval(module))


def _update_class(module: nn.Module, held: bool) -> None:
    """Gives ``module`` the run-time class that its present grafts need."""
    present = [graft for _, graft in grafts(module)]
    params = frozenset(graft.param for graft in present if isinstance(graft, WeightGraft))
    calls_grafts = any(isinstance(graft, (InputGraft, OutputGraft)) for graft in present)
    base = base_class(module)
    recurrent = bool(params) and issubclass(base, nn.RNNBase)
    module.__class__ = _subclass(ClassSpec(base, params, calls_grafts, held, recurrent, fast_paths(module)))


@functools.cache
def _subclass(spec: ClassSpec) -> type[nn.Module]:
    """Returns the run-time class of this spec; equal specs have one class."""
    base = spec.base
    mixins = _mixins(spec)
    body = {param: adapted_property(param) for param in spec.params}
    body |= {call: _folding_first(base, call) for call in _fuse_methods(base)}
    body |= _forward_like(base, mixins)
    body |= {
        "_petl_spec": spec,
        "_petl_rebuild": staticmethod(_rebuild),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
    }
    return cast("type[nn.Module]", type(base.__name__, (*mixins, base), body))


def _mixins(spec: ClassSpec) -> list[type]:
    """Returns the mixins in the order in which their forwards run: paths around the grafts, the grafts, paths inside them."""
    outer, inner = ([path for path in spec.fast_paths if path.around_grafts is where] for where in (True, False))
    own = ((RecurrentWeights, spec.recurrent), (HeldInEval, spec.held), (RuntimeClass, True))
    return [*outer, *([CallsGrafts] if spec.calls_grafts else []), *inner, *(mixin for mixin, on in own if on)]


def _forward_like(base: type[nn.Module], mixins: Sequence[type]) -> dict[str, Any]:
    """Returns a ``forward`` that runs the first mixin's and has the signature, name and docstring of ``base``'s own.

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


def _fuse_methods(cls: type[nn.Module]) -> list[str]:
    return [call for call in FUSES if callable(getattr(cls, call, None))]


def _folding_first(base: type[nn.Module], call: str) -> Callable[[Any], Any]:
    """``base``'s own ``fuse``, run on plain weights; grafts around the module move to the module that it returns.

    Some of timm's read the weights, some write to them, some drop the module: only the first would be right with grafts inside.
    """

    def fuse(self: nn.Module) -> Any:
        if inside := _unfoldable_below(self):
            raise StateError(
                f"{base.__name__}.{call}() would lose {', '.join(inside[:3])}, which can't be folded into a weight; "
                f"use the model as it is, or train a method that folds, such as 'lora'"
            )
        around = [(name, graft) for name, graft in grafts(self) if not isinstance(graft, WeightGraft)]
        for name, _ in around:
            delattr(self, name)
        for part in [part for part in self.modules() if grafts(part)]:
            fold(part)
        fused = getattr(base, call)(self)
        for name, graft in around:
            grow(fused if isinstance(fused, nn.Module) else self, name, graft)
        return fused

    return fuse


def _unfoldable_below(module: nn.Module) -> list[str]:
    """Names of the grafts on modules inside this one that can't be folded into a weight."""
    below = ((name, grafts(part)) for name, part in module.named_modules() if name)
    return [
        f"{name}.{own}" for name, own_grafts in below for own, graft in own_grafts if not isinstance(graft, WeightGraft)
    ]


def _rebuild(*fields: Any) -> nn.Module:
    """Returns an empty module of the run-time class with these fields of its spec: for pickle and deepcopy."""
    cls = _subclass(ClassSpec(*fields))
    return cls.__new__(cls)
