"""What ``layer.weight`` returns while a graft is on the layer: a computed tensor, which refuses to be written to.

A write to it would be lost. ``AdaptedWeight`` refuses writes by its methods and through views of it; torch's own code sees a
plain tensor.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any, NoReturn, cast

import torch
from torch import Tensor, nn

from petl.errors import StateError

HARMLESS = ("requires_grad_", "share_memory_", "detach_")  # end like operations in place and write no numbers
VIEWS = (  # methods that may return a part of the same memory
    *("__getitem__", "view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "ravel", "narrow", "select"),
    *("t", "transpose", "swapaxes", "swapdims", "permute", "movedim", "moveaxis", "squeeze", "unsqueeze", "unfold"),
    *("expand", "expand_as", "detach", "diagonal", "as_strided", "unbind", "split", "chunk", "tensor_split"),
    "__iter__",
)
LOST = "_petl_lost"  # attribute of a module: the error about a write that was seen too late, raised at the next read
_LAST = threading.local()  # weight: a weak reference to the one that this thread has read last


class AdaptedWeight(Tensor):
    """A computed weight that can be read like any tensor and refuses writes: nobody would read what was written."""

    __torch_function__ = cast(Any, torch._C._disabled_torch_function_impl)  # no operation pays for it, or differs by it
    layer: Callable[[], nn.Module | None] = staticmethod(lambda: None)  # a weak reference
    param: str = ""  # the parameter's name in the layer
    own: Tensor | None = (
        None  # the layer's own parameter, which torch.nn.utils.weight_norm deletes before it sets others
    )
    version: int = -1  # torch's count of writes when the numbers were computed; -1 where torch doesn't count

    @property
    def data(self) -> Tensor:  # type: ignore[override]  # of torch it is an attribute
        return _shared(self, self.detach())

    @data.setter
    def data(self, value: Any) -> None:
        self._refuse("data = ...")

    @property
    def requires_grad(self) -> bool:  # type: ignore[override]  # of torch it is an attribute
        return cast(Any, Tensor.requires_grad).__get__(self)

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if value != self.requires_grad:
            self._refuse(f"requires_grad = {value}")

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        self.requires_grad = requires_grad
        return self

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self.as_subclass(Tensor).__deepcopy__(memo)

    def __reduce_ex__(self, proto: Any) -> Any:
        return self.as_subclass(Tensor).__reduce_ex__(proto)

    def __del__(self) -> None:
        """Warns of a write that no method of the tensor saw: torch.eye(out=), torch._foreach_mul_, torch.zero_."""
        layer = self.layer() if self.version >= 0 else None
        if layer is not None and self._version != self.version:
            vars(layer)[LOST] = text = _lost_write(layer, self.param, "an operation in place")
            warnings.warn(text, stacklevel=2)

    def _refuse(self, what: str) -> NoReturn:
        raise StateError(_lost_write(self.layer(), self.param, what))


def _lost_write(layer: nn.Module | None, param: str, what: str) -> str:
    """Returns the text of the error about ``what`` wrote to the adapted weight."""
    kind = "layer" if layer is None else cast(Any, layer)._petl_spec.base.__name__
    return (
        f"{what} on the {param} of a {kind} that petl has adapted: it is computed at each use, so this is lost. "
        f"Change the base before petl.wrap, or call petl.merge(model) or petl.unwrap(model) first; "
        f"layer.{param}.clone() is a tensor of its own"
    )


def _refusing(name: str) -> Callable[..., Any]:
    def write(self: AdaptedWeight, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse(f"{name}()")

    return write


def _viewing(name: str) -> Callable[..., Any]:
    plain: Any = getattr(Tensor, name)
    plain = plain if callable(plain) else plain.__get__  # an attribute, such as T

    def view(self: AdaptedWeight, *args: Any, **kwargs: Any) -> Any:
        out = plain(self, *args, **kwargs)
        if isinstance(out, Tensor):
            return _shared(self, out)
        parts = [_shared(self, part) for part in out]
        return iter(parts) if name == "__iter__" else type(out)(parts)

    return view


def _shared(weight: AdaptedWeight, part: Tensor) -> Tensor:
    """``part``, as an AdaptedWeight where it shares the weight's memory."""
    same = part.untyped_storage()._cdata == weight.untyped_storage()._cdata
    return _as_part(part, weight) if same and type(part) is Tensor else part


def _in_place(name: str) -> bool:
    if name.startswith("__"):
        return name in ("__setitem__", "__idiv__") or (name.startswith("__i") and hasattr(Tensor, f"__{name[3:]}"))
    return name.endswith("_") and not name.startswith("_") and name not in HARMLESS


for _name in dir(Tensor):
    if _in_place(_name) and callable(getattr(Tensor, _name)):
        setattr(AdaptedWeight, _name, _refusing(_name))
for _name in VIEWS:
    setattr(AdaptedWeight, _name, _viewing(_name))
for _name in ("T", "mT", "H", "mH", "real"):
    setattr(AdaptedWeight, _name, property(_viewing(f"{_name}")))


def as_adapted_weight(value: Tensor, module: nn.Module, param: str) -> Tensor:
    """Returns ``value`` as an AdaptedWeight of that module; as it is while torch traces, compiles, transforms or fakes it.

    Raises:
        StateError: an earlier AdaptedWeight was written to in a way that could be seen only afterwards.
    """
    if type(value) is not Tensor or torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return value
    above = torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack()
    if above or torch.jit.is_tracing():
        return value
    if LOST in vars(module):
        raise StateError(vars(module).pop(LOST))
    out = value.as_subclass(AdaptedWeight)
    out.layer, out.param, out.own = weakref.ref(module), param, module._parameters.get(param)
    out.version = -1 if out.is_inference() else out._version
    _LAST.weight = weakref.ref(out)
    return out


def last_read() -> AdaptedWeight | None:
    """Returns the adapted weight that this thread has read last; None when nobody holds it any more."""
    return getattr(_LAST, "weight", lambda: None)()


def _as_part(part: Tensor, weight: AdaptedWeight) -> AdaptedWeight:
    out = part.as_subclass(AdaptedWeight)
    out.layer, out.param, out.own, out.version = weight.layer, weight.param, weight.own, weight.version
    return out
