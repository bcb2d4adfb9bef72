"""Grow a subclass onto a module and take it off again: the only place in petl that makes classes.

The module keeps its identity, name, hooks and base parameters under their old keys. Its class becomes a run-time
subclass of its own class (the idiom of ``torch.nn.utils.parametrize``), which answers a grafted parameter with the
adapted tensor and calls input and output grafts around the class's own ``forward``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from petl.errors import SiteError, StateError
from petl.graft.adapted_weight import Guarded, guarded
from petl.graft.computed_weights import check_known, refresh, settle
from petl.graft.sharded import wants_own
from petl.kernels.low_rank import Change, laid_out_as, without_autocast

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
FUSES = ("fuse", "reparameterize", "switch_to_deploy")  # what timm.utils.reparameterize_model calls on modules
PARTNER = "_petl_partner"  # attribute of a convolution: a tuple of the module around it and of the norm after it


class Graft(nn.Module):
    """A child module that changes its parent: one of the three kinds below.

    ``in_chans`` is the number of channels that the parent takes with the graft on, where the graft changes that;
    ``why_stuck`` says why a graft that isn't a weight graft can't be folded.
    """

    in_chans: int | None = None
    why_stuck: str = "it is a layer of its own"


class WeightGraft(Graft):
    """A function from a parameter's value to its adapted value; foldable by construction.

    ``param`` names the parent's parameter; ``change(weight) -> weight`` may also change its shape. It is computed in the
    graft's own precision and outside autocast, and rounded to the weight's dtype once, so a float32 delta on a
    half-precision or autocast layer isn't rounded before it is added.

    ``dtype`` is the type that the graft gives the weight, where it changes that.
    """

    param: str = "weight"
    dtype: torch.dtype | None = None

    def low_rank(self) -> Change | None:
        """The change as low-rank factors over the weight as a matrix, where it is that and nothing else."""
        return None

    def change(self, weight: Tensor) -> Tensor:
        """The adapted weight; says what the method is."""
        raise NotImplementedError

    def forward(self, weight: Tensor, parent: nn.Module) -> Tensor:
        own = next(self.parameters(), weight).dtype  # FSDP1 puts tensors in the place of parameters
        with without_autocast(weight.device):
            return laid_out_as(weight, self.change(weight.to(own)).to(weight.dtype))

    def register_forward_hook(self, hook: Callable[..., Any], **kwargs: Any) -> Any:
        """As ever, but for hooks that take what goes in for a batch of samples, as Opacus's do: here it is a weight."""
        if (getattr(hook, "__module__", None) or type(hook).__module__).partition(".")[0] == "opacus":
            raise StateError(
                f"gradients of single samples by Opacus's module hooks can't be had of {type(self).__name__}, which changes a "
                f"weight; torch.func gives them, as docs/pipelines.md shows, and Opacus takes the "
                f"methods 'probe', 'norm', 'bias' and 'adapter'"
            )
        return super().register_forward_hook(hook, **kwargs)

    def folded(self, parent: nn.Module) -> None:
        """Called on the parent when the adapted value has been written into it for good."""


class InputGraft(Graft):
    """``forward(x) -> x`` on the first positional argument of the parent's ``forward``."""


class OutputGraft(Graft):
    """``forward(output, *inputs) -> output`` on what the parent's ``forward`` returns."""


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
    _dress(module, still=is_still(module))


def hold(module: nn.Module) -> None:
    """Keep ``module`` and all inside it in evaluation mode for good, also under ``model.train()``."""
    _dress(module, still=True)
    module.eval()


def give(module: nn.Module, *more: type[Way]) -> None:
    """Let ``module`` run its forward in these ways too; those that it has already stay as they are.

    An activation that two models share is given its way by both.
    """
    look = getattr(module, "_petl_look", None)
    before = look or _Look(type(module))
    cast(Any, module).__class__ = _subclass(before._replace(ways=tuple(dict.fromkeys((*before.ways, *more)))))


def guard(model: nn.Module) -> None:
    """Let every module below ``model`` that can fuse itself fold first what has grown inside it."""
    for module in [*model.modules()][1:]:
        if _fuses(type(module)) and any(grafts(part) for part in module.modules()):
            _dress(module, still=is_still(module))


def ways(module: nn.Module) -> tuple[type[Way], ...]:
    """The ways that ``module`` was given."""
    return module._petl_look.ways if isinstance(module, _Grafted) else ()


def prune(module: nn.Module) -> None:
    """Take every graft off ``module`` and give it its own class back; its parameters are not touched."""
    for name, _ in grafts(module):
        delattr(module, name)
    vars(module).pop(PARTNER, None)
    if isinstance(module, _Grafted):
        cast(Any, module).__class__ = base_class(module)


def fold(module: nn.Module, values: dict[str, Tensor] | None = None) -> None:
    """Write the adapted values into ``module``'s own parameters and prune it: bit for bit what ``forward`` used.

    ``values`` are those that ``folded`` gave; without them they are computed now.
    """
    found = grafts(module)
    stuck = [name for name, graft in found if not isinstance(graft, WeightGraft)]
    if stuck:
        raise SiteError(
            f"{', '.join(stuck)} on {base_class(module).__name__} is not a weight graft and can't be folded"
        )
    weights = cast("list[tuple[str, WeightGraft]]", found)
    values = folded(module) if values is None else values
    prune(module)
    for param, value in values.items():
        settle(module, param, value)
    for _, graft in weights:
        graft.folded(module)


def folded(module: nn.Module) -> dict[str, Tensor]:
    """The adapted values, by parameter: new tensors that ``fold`` writes; nothing of the module is changed."""
    values = {}
    for param in dict.fromkeys(graft.param for _, graft in grafts(module) if isinstance(graft, WeightGraft)):
        refresh(module, param)
        values[param] = _computed(module, param).detach().clone()
    return values


def spoilt(module: nn.Module, values: dict[str, Tensor]) -> list[str]:
    """The parameters whose new value has numbers that aren't finite, and whose own value hasn't."""
    return [p for p, value in values.items() if not value.isfinite().all() and own_value(module, p).isfinite().all()]


def grafts(module: nn.Module) -> list[tuple[str, Graft]]:
    """The grafts on ``module`` with their names, in the order in which they work."""
    return [(name, child) for name, child in module.named_children() if isinstance(child, Graft)]


def seen_dtype(model: nn.Module) -> torch.dtype:
    """The floating-point type of the model's first parameter, as the model's own code sees it: that of its images."""
    for module in model.modules():
        for param, value in module._parameters.items():
            if value is not None and value.is_floating_point():
                return _new_dtype(module, param) or value.dtype
    return torch.get_default_dtype()


def _new_dtype(module: nn.Module, param: str) -> torch.dtype | None:
    """The type that a graft gives the parameter, where one changes it."""
    found = [graft for _, graft in grafts(module) if isinstance(graft, WeightGraft) and graft.param == param]
    return next((graft.dtype for graft in found if graft.dtype is not None), None)


def is_still(module: nn.Module) -> bool:
    """Whether ``hold`` keeps this module in evaluation mode."""
    return isinstance(module, _Still)


def is_grafted(module: nn.Module) -> bool:
    """Whether petl has changed this module's class."""
    return isinstance(module, _Grafted)


def base_class(module: nn.Module) -> type[nn.Module]:
    """The class that ``module`` had before anything grew on it."""
    return module._petl_look.base if isinstance(module, _Grafted) else type(module)


class Way:
    """A mixin of another way to run a module's forward: around its grafts (``outer``) or inside them."""

    outer: bool = False


class _Look(NamedTuple):
    """What a run-time class is made of: the base class, the grafted parameters, which of the mixins below, and the ways."""

    base: type[nn.Module]
    params: frozenset[str] = frozenset()
    around: bool = False
    still: bool = False
    recurrent: bool = False
    ways: tuple[type[Way], ...] = ()


class _Grafted(Guarded):
    """Marks the run-time classes and lets their instances be pickled and deep-copied."""

    _petl_look: _Look

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        state = dict(getattr(self, "__getstate__", lambda: self.__dict__)())  # nn.LSTM has one; Python 3.10 no default
        return _blank, tuple(self._petl_look), state


class _Forward(_Grafted):
    """Calls input grafts before and output grafts after the class's own forward."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        children = cast(nn.Module, self)._modules.values()
        name = "" if args else next(iter(kwargs), "")  # the input may come by name
        x = args[0] if args else kwargs.get(name)
        for graft in children:
            if isinstance(graft, InputGraft):
                x = graft(x)
        given = ((x, *args[1:]), kwargs) if args else ((), {**kwargs, **({name: x} if name else {})})
        out = super().forward(*given[0], **given[1])  # type: ignore[misc]  # the base class's forward comes next in the order
        for graft in children:
            if isinstance(graft, OutputGraft):
                out = graft(out, x, *args[1:])
        return out


class _Still(_Grafted):
    """Never leaves evaluation mode."""

    def train(self, mode: bool = True) -> Any:
        return super().train(False)  # type: ignore[misc]  # nn.Module.train comes next in the order


class _Recurrent(_Grafted):
    """nn.LSTM and its like hand a list of their weights to the kernel: here the adapted values, made anew at each forward."""

    @property
    def _flat_weights(self) -> list[Tensor | None]:
        return [getattr(self, name, None) for name in cast(Any, self)._flat_weights_names]

    @_flat_weights.setter
    def _flat_weights(self, values: list[Tensor | None]) -> None:
        own = cast(nn.Module, self)._parameters
        vars(self)["_flat_weights"] = [own.get(name) for name in cast(Any, self)._flat_weights_names]

    def _update_flat_weights(self) -> None:
        """Nothing to do: the list is never out of date."""

    def flatten_parameters(self) -> None:
        """Nothing to do: adapted values don't lie side by side in memory."""


def _dress(module: nn.Module, still: bool) -> None:
    """Give ``module`` the run-time class that its present grafts ask for."""
    found = [graft for _, graft in grafts(module)]
    params = frozenset(graft.param for graft in found if isinstance(graft, WeightGraft))
    around = any(isinstance(graft, (InputGraft, OutputGraft)) for graft in found)
    base = base_class(module)
    recurrent = bool(params) and issubclass(base, nn.RNNBase)
    module.__class__ = _subclass(_Look(base, params, around, still, recurrent, ways(module)))


@functools.cache
def _subclass(look: _Look) -> type[nn.Module]:
    outer, inner = ([way for way in look.ways if way.outer is where] for where in (True, False))
    own = ((_Recurrent, look.recurrent), (_Still, look.still), (_Grafted, True))
    mixins = [*outer, *([_Forward] if look.around else []), *inner, *(mixin for mixin, on in own if on)]
    base = look.base
    body = {param: _adapted(param) for param in look.params}
    body |= {call: _fusing(base, call) for call in _fuses(base)}
    body |= _forward_like(base, mixins)
    body |= {
        "_petl_look": look,
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
        inside = [f"{n}.{name}" for n, m in self.named_modules() if n for name, g in grafts(m) if not isinstance(g, WeightGraft)]
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


def _adapted(param: str) -> property:
    """A property that answers with ``param``'s value after all of its grafts."""

    def get(self: nn.Module) -> Tensor:
        if wants_own():
            return own_value(self, param)
        return guarded(_computed(self, param), self, param)

    def put(self: nn.Module, value: Any) -> None:
        """For code that keeps a tensor in a parameter's place: torch's pruning before each forward, FSDP1."""
        vars(self)[param] = value

    def drop(self: nn.Module) -> None:
        if param not in vars(self):
            raise AttributeError(param)
        del vars(self)[param]

    return property(get, put, drop)


def _computed(module: nn.Module, param: str) -> Tensor:
    """The value as it is now. Nothing is remembered: a proof that no source was written to costs as much as the value."""
    value = own_value(module, param)
    for graft in module._modules.values():
        if isinstance(graft, WeightGraft) and graft.param == param:
            value = graft(value, module)
    return value


def own_value(module: nn.Module, param: str) -> Tensor:
    """The module's own parameter, what a hook computed (pruning), or what its class computes (``torch.nn.utils.parametrize``)."""
    if param in module._parameters:
        return cast(Tensor, module._parameters[param])
    if param in vars(module):
        return vars(module)[param]
    return getattr(super(_Grafted, cast(Any, module)), param)


def _blank(*look: Any) -> nn.Module:
    cls = _subclass(_Look(*look))
    return cls.__new__(cls)
