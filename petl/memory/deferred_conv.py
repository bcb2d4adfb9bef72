"""A convolution's output that waits to be computed: a frozen norm that takes it computes both as one convolution.

Multiplying a norm in evaluation mode into the convolution before it saves a pass over the feature map in the forward and one
in the backward. Whether nothing lies between the two is not a matter of the model's structure: hooks, replaced modules,
checkpoints and parts that are called by themselves decide it anew in each forward. So the convolution returns a ``Deferred``,
which holds its inputs. The norm, if it is the first to touch it, runs the combined convolution; any other code that touches
it gets the convolution's own output, with its gradient, as if it had been there from the start.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from petl.graft.kinds import PAIRED_NORM, FastPath
from petl.kernels import low_rank
from petl.memory.checkpointed_blocks import call
from petl.memory.recompute import recording, top_hooks

_STATE = threading.local()
_METADATA = {  # what is known without computing anything
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "requires_grad", "ndim", "layout")),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.is_complex),
}
_WRITING = {f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")}
_WRITING |= {"__setitem__", "__ilshift__", "__irshift__"}


class Partner(NamedTuple):
    """Where a convolution's output goes, as the survey saw it: the module inside which both run, and the norm."""

    scope: nn.Module
    norm: nn.Module


class _Autocast(NamedTuple):
    device: str
    on: bool
    dtype: torch.dtype

    @staticmethod
    def now(device: str) -> _Autocast:
        return _Autocast(device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))


@dataclass
class Convolution:
    """A convolution that is not computed yet: arguments of ``kernels.conv``, with their versions and the autocast state."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    change: low_rank.Change | None
    geometry: low_rank.Geometry
    result: Tensor | None = None
    value: Tensor | None = None
    autocast: _Autocast = field(init=False)
    versions: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.autocast = _Autocast.now(self.x.device.type)
        self.versions = [tensor._version for tensor in self._tensors()]

    def inputs(self) -> tuple[Tensor | None, ...]:
        """What may have a gradient: x, bias, up, down."""
        return self.x, self.bias, *(self.change[:2] if self.change else (None, None))

    def is_open(self) -> bool:
        """Whether nobody has seen the output yet, and computing it now is as computing it then; raises where it can't be."""
        self._check()
        return self.result is None and self.value is None and self.autocast == _Autocast.now(self.x.device.type)

    def plain(self) -> Tensor:
        """The convolution's own output, part of the graph."""
        if self.result is None:
            self._check()
            device, on, dtype = self.autocast
            with torch.enable_grad(), torch.autocast(device, enabled=on, dtype=dtype):
                args = (self.x, self.weight, self.bias, self.change, None, self.geometry)
                self.result = call(low_rank.conv, *args)
        return self.result

    def numbers(self) -> Tensor:
        """The output outside the graph, for operations that are recorded already when they ask."""
        if self.value is None:
            self.value = self.plain().detach() if self.result is not None else self._run(*self.inputs())
        return self.value

    def gradients(self, out: Tensor, needed: tuple[bool, ...], again: bool) -> list[Tensor | None]:
        """Those of ``inputs`` that are needed, from that of the output; ``again``: they will be differentiated themselves."""
        self._check()
        with torch.enable_grad():
            inputs = [None if t is None else t.view_as(t) for t in self.inputs()]
            wanted = [t for t, needs in zip(inputs, needed, strict=True) if needs]
            found = iter(torch.autograd.grad(self._run(*inputs), cast("list[Tensor]", wanted), out, create_graph=again))
        return [next(found) if needs else None for needs in needed]

    def _run(self, x: Tensor | None, bias: Tensor | None, up: Tensor | None, down: Tensor | None) -> Tensor:
        change = None if up is None or down is None or self.change is None else self.change._replace(up=up, down=down)
        device, on, dtype = self.autocast
        with torch.autocast(device, enabled=on, dtype=dtype):
            return low_rank.conv(cast(Tensor, x), self.weight, bias, change, None, self.geometry)

    def _tensors(self) -> list[Tensor]:
        return [tensor for tensor in (*self.inputs(), self.weight) if tensor is not None]

    def _check(self) -> None:
        for tensor, version in zip(self._tensors(), self.versions, strict=True):
            low_rank.unchanged(tensor, version)

    def shape(self) -> tuple[int, ...]:
        """[batch, out, height, width] of the output."""
        pairs = zip(self.x.shape[2:], self.weight.shape[2:], *self.geometry[:3], strict=True)
        sizes = [(n + 2 * pad - far * (k - 1) - 1) // step + 1 for n, k, step, pad, far in pairs]
        return (self.x.shape[0], self.weight.shape[0], *sizes)


class Deferred(Tensor):
    """The output of a ``Convolution``; computed as soon as anything but its metadata is asked for."""

    work: Convolution

    @staticmethod
    def __new__(cls, work: Convolution) -> Deferred:
        size, dtype = work.shape(), low_rank.computed_in(work.x)
        last = work.x.is_contiguous(memory_format=torch.channels_last) and not work.x.is_contiguous()
        strides = torch.empty(size, device="meta", memory_format=torch.channels_last if last else None).stride()
        made = Tensor._make_wrapper_subclass(cls, size, strides=strides, dtype=dtype, device=work.x.device)
        made.work = work
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _METADATA and not _writes(func) and not _written(args, kwargs):
            args, kwargs = tree_map(settled, (args, kwargs))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(lambda t: t.work.numbers() if isinstance(t, Deferred) else t, (args, kwargs or {}))
        return func(*args, **kwargs)


class _Waiting(torch.autograd.Function):
    """Gives a ``Deferred`` its place in the graph, for code that takes it without asking: another autograd function."""

    @staticmethod
    def forward(ctx: Any, work: Convolution, *inputs: Tensor | None) -> Deferred:
        ctx.work = work
        return Deferred(work)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.work.gradients(grads[0], ctx.needs_input_grad[1:], torch.is_grad_enabled())


def deferred(work: Convolution) -> Tensor:
    """The convolution's output, not computed yet."""
    inputs = work.inputs()
    if any(tensor is not None and tensor.requires_grad for tensor in inputs):
        return cast(Tensor, _Waiting.apply(work, *inputs))
    return Deferred(work)


def waiting(x: Tensor) -> Convolution | None:
    """The convolution whose output ``x`` is, where that is not computed yet and nobody has seen it."""
    return x.work if isinstance(x, Deferred) and not _written((x,), {}) and x.work.is_open() else None


def settled(x: Any) -> Any:
    """``x``, computed if it is a ``Deferred``."""
    if not isinstance(x, Deferred):
        return x
    return x.clone() if _written((x,), {}) else x.work.plain()


def may_defer(conv: nn.Module) -> nn.Module | None:
    """The norm that is expected to take this convolution's output, where both run inside a scope that is open now."""
    partner: Partner | None = getattr(conv, PAIRED_NORM, None)
    if partner is None or not conv.training or torch.compiler.is_compiling():
        return None
    if torch._C._are_functorch_transforms_active():
        return None
    hooks = conv._forward_hooks or conv._backward_hooks or conv._backward_pre_hooks or partner.norm._forward_pre_hooks
    if hooks or torch.nn.modules.module._has_any_global_hook():  # somebody looks at what lies between them
        return None
    open_now = any(frame == (partner.scope, top_hooks()) for frame in _frames())  # inside a checkpoint, hooks differ
    return partner.norm if open_now else None


class Scope(FastPath):
    """A module inside which convolutions may defer their outputs; what it returns is computed."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        plain = super().forward  # type: ignore[misc]  # the base class's forward comes next in the order
        if torch.compiler.is_compiling() or not recording(*args, kwargs):
            return plain(*args, **kwargs)
        with _opened(cast(nn.Module, self)):
            out = plain(*args, **kwargs)
        is_deferred = any(isinstance(leaf, Deferred) for leaf in tree_leaves(out))
        return tree_map(settled, out) if is_deferred else out


@contextlib.contextmanager
def _opened(scope: nn.Module) -> Iterator[None]:
    frames = _frames()
    frames.append((scope, top_hooks()))
    try:
        yield
    finally:
        frames.pop()


def _frames() -> list[tuple[nn.Module, Any]]:
    if not hasattr(_STATE, "frames"):
        _STATE.frames = []
    return cast("list[tuple[nn.Module, Any]]", _STATE.frames)


def _writes(func: Any) -> bool:
    """Whether a function writes to its first argument, which autograd then gives another place in the graph."""
    name = getattr(func, "__name__", "")
    return (name.endswith("_") and not name.endswith("__")) or name in _WRITING


def _written(args: Any, kwargs: Any) -> bool:
    """Whether anything has written to a ``Deferred``: from then on, its own place in the graph counts."""
    with torch._C.DisableTorchFunctionSubclass():
        return any(isinstance(t, Deferred) and t._version > 0 for t in tree_leaves((args, kwargs)))
