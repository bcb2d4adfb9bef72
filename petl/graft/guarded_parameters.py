"""Refuses to exchange or delete a parameter that a graft reads: the change would be added to other values."""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any, NoReturn, cast

from torch import nn

from petl.errors import StateError
from petl.graft.adapted_weight import AdaptedWeight, last_read

_UNGUARDED = threading.local()  # tokens: the uses of ``unguarded`` in this thread


class GuardedParameters:
    """A mixin: grafted parameters can't be exchanged or deleted, as the grafts would be added to other values.

    Only loading may, and torch's distributed wrappers, which put the same values back.
    """

    _petl_spec: Any

    def register_parameter(self, name: str, param: Any) -> None:
        if isinstance(param, AdaptedWeight):
            param._refuse(f"{name} = layer.{param.param}")
        self._petl_restore()
        if name in self._petl_spec.params and not self._petl_may():
            self._petl_refuse(f"layer.{name} = ...")
        super().register_parameter(name, param)  # type: ignore[misc]  # nn.Module's comes next in the order

    def __delattr__(self, name: str) -> None:
        if name in self._petl_spec.params and not self._petl_may():
            self._petl_refuse(f"deleting {name}")
        super().__delattr__(name)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        with unguarded():
            return super()._load_from_state_dict(*args, **kwargs)  # type: ignore[misc]  # as above

    def __prepare_scriptable__(self) -> NoReturn:
        """Refuses torch.jit.script, which calls this on every module and knows no class that is made at run time."""
        self._petl_refuse("torch.jit.script")

    @property
    def qconfig(self) -> Any:
        if "qconfig" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute 'qconfig'")
        return vars(self)["qconfig"]

    @qconfig.setter
    def qconfig(self, value: Any) -> None:
        """Refuses torch's eager quantization, which sets it on every module, then skips classes that it doesn't know."""
        self._petl_refuse("quantization")

    def _petl_may(self) -> bool:
        """Returns whether loading or a distributed wrapper exchanges the parameter."""
        frame, names = sys._getframe(2), []
        while frame is not None and len(names) < 3:
            names.append(frame.f_globals.get("__name__", ""))
            frame = frame.f_back  # type: ignore[assignment]  # the outermost has none
        return len(_tokens()) > 0 or any(name.startswith("torch.distributed") for name in names)

    def _petl_restore(self) -> None:
        """Restores a parameter that torch.nn.utils.weight_norm has taken out already, and refuses to go on."""
        weight: AdaptedWeight | None = last_read()
        if weight is None or weight.layer() is not self or weight.own is None:
            return
        own, param = cast(nn.Module, self)._parameters, weight.param
        if param not in own and param not in vars(self):
            own[param] = cast(nn.Parameter, weight.own)
            self._petl_refuse(f"taking {param} apart")

    def _petl_refuse(self, what: str) -> NoReturn:
        raise StateError(
            f"{what} on a {self._petl_spec.base.__name__} that petl has adapted: what petl added would work on other values, or "
            f"be passed by. Do it before petl.wrap, or call petl.merge(model) or petl.unwrap(model) first"
        )


@contextlib.contextmanager
def unguarded() -> Iterator[None]:
    """Inside, parameters may be exchanged: by loading, and by the methods that ``wrap`` applies."""
    token = _Token()  # dies with this frame, also where Ctrl-C comes between two lines here
    _tokens().add(token)
    try:
        yield
    finally:
        _tokens().discard(token)


class _Token:
    """One use of ``unguarded`` that has not ended."""


def _tokens() -> weakref.WeakSet[_Token]:
    if not hasattr(_UNGUARDED, "tokens"):
        _UNGUARDED.tokens = weakref.WeakSet()
    return _UNGUARDED.tokens
