"""The classes that a module gets at run time: what they are made of, and what they add to the module's own class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from petl.graft.guarded_parameters import GuardedParameters
from petl.graft.kinds import FastPath, InputGraft, OutputGraft


def fast_paths(module: nn.Module) -> tuple[type[FastPath], ...]:
    """Returns the fast paths that were added to ``module``."""
    return module._petl_spec.fast_paths if isinstance(module, RuntimeClass) else ()


def is_held_in_eval(module: nn.Module) -> bool:
    """Returns whether ``hold_in_eval`` keeps this module in evaluation mode."""
    return isinstance(module, HeldInEval)


def is_grafted(module: nn.Module) -> bool:
    """Returns whether petl has changed this module's class."""
    return isinstance(module, RuntimeClass)


def base_class(module: nn.Module) -> type[nn.Module]:
    """Returns the class that ``module`` had before anything grew on it."""
    return module._petl_spec.base if isinstance(module, RuntimeClass) else type(module)


class ClassSpec(NamedTuple):
    """What a run-time class is made of: the base class, the grafted parameters, which of the mixins below, and the fast paths."""

    base: type[nn.Module]
    params: frozenset[str] = frozenset()
    calls_grafts: bool = False
    held: bool = False
    recurrent: bool = False
    fast_paths: tuple[type[FastPath], ...] = ()


class RuntimeClass(GuardedParameters):
    """Marks the run-time classes and lets their instances be pickled and deep-copied."""

    _petl_spec: ClassSpec
    _petl_rebuild: Callable[
        ..., nn.Module
    ]  # from the fields of a spec to an empty module; the code that makes classes sets it

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        state = dict(getattr(self, "__getstate__", lambda: self.__dict__)())  # nn.LSTM has one; Python 3.10 no default
        return self._petl_rebuild, tuple(self._petl_spec), state


class CallsGrafts(RuntimeClass):
    """Calls input grafts before and output grafts after the class's own forward."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        children = cast(nn.Module, self)._modules.values()
        name = "" if args else next(iter(kwargs), "")  # the input may come by name
        x = args[0] if args else kwargs.get(name)
        for graft in children:
            if isinstance(graft, InputGraft):
                x = graft(x)
        if args:
            args = (x, *args[1:])
        elif name:
            kwargs = {**kwargs, name: x}
        out = super().forward(*args, **kwargs)  # type: ignore[misc]  # the base class's forward comes next in the order
        for graft in children:
            if isinstance(graft, OutputGraft):
                out = graft(out, x, *args[1:])
        return out


class HeldInEval(RuntimeClass):
    """Never leaves evaluation mode."""

    def train(self, mode: bool = True) -> Any:
        return super().train(False)  # type: ignore[misc]  # nn.Module.train comes next in the order


class RecurrentWeights(RuntimeClass):
    """Gives nn.LSTM and its like, which pass a list of their weights to the kernel, the adapted values at each forward."""

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
