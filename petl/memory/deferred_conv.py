"""A convolution's output that is computed later: a frozen norm that takes it computes both as one convolution.

Multiplying a frozen norm into the convolution before it saves a pass over the feature map in the forward and one in the
backward. The model's structure doesn't tell whether nothing lies between the two: hooks, replaced modules, checkpoints and
parts that are called by themselves can change it in each forward. So the convolution returns a ``DeferredOutput``, which
holds its inputs. The norm, if it is the first to use that tensor, runs the combined convolution; any other code that uses it
gets the convolution's own output, with its gradient, as if it had been computed at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from petl.kernels import low_rank_conv
from petl.kernels.autocast import compute_dtype
from petl.kernels.convolution import ConvGeometry
from petl.kernels.low_rank import LowRankChange
from petl.kernels.tensor_version import check_version
from petl.memory.skip_plan import run_kernel

_READS_METADATA = {  # known before the convolution is computed
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "requires_grad", "ndim", "layout")),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.is_complex),
}
_OPERATORS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift")
_IN_PLACE_OPERATORS = {"__setitem__", *(f"__i{name}__" for name in _OPERATORS)}


class _AutocastState(NamedTuple):
    device: str
    is_on: bool
    dtype: torch.dtype

    @staticmethod
    def now(device: str) -> _AutocastState:
        return _AutocastState(device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))


@dataclass
class DeferredConv:
    """A convolution that is not computed yet: arguments of ``conv2d``, with their versions and the autocast state.

    ``output`` is the convolution's output in the graph, once computed; ``detached_output`` that outside the graph.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    change: LowRankChange | None
    geometry: ConvGeometry
    output: Tensor | None = None
    detached_output: Tensor | None = None
    autocast: _AutocastState = field(init=False)
    versions: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.autocast = _AutocastState.now(self.x.device.type)
        self.versions = [tensor._version for tensor in self._tensors()]

    def inputs(self) -> tuple[Tensor | None, ...]:
        """Returns the tensors that may have a gradient: x, bias, up, down."""
        return self.x, self.bias, *(self.change[:2] if self.change else (None, None))

    def is_pending(self) -> bool:
        """Returns whether no code has used the output, and computing it now gives the same; raises if an input was written to."""
        self._check_versions()
        is_used = self.output is not None or self.detached_output is not None
        return not is_used and self.autocast == _AutocastState.now(self.x.device.type)

    def compute(self) -> Tensor:
        """Returns the convolution's own output, in the graph."""
        if self.output is None:
            self._check_versions()
            device, is_on, dtype = self.autocast
            with torch.enable_grad(), torch.autocast(device, enabled=is_on, dtype=dtype):
                args = (self.x, self.weight, self.bias, self.change, None, self.geometry)
                self.output = run_kernel(low_rank_conv.conv2d, *args)
        return self.output

    def compute_detached(self) -> Tensor:
        """Returns the output outside the graph, for operations that autograd has already recorded."""
        if self.detached_output is None:
            is_computed = self.output is not None
            self.detached_output = self.compute().detach() if is_computed else self._conv(*self.inputs())
        return self.detached_output

    def gradients(self, grad_out: Tensor, needed: tuple[bool, ...], create_graph: bool) -> list[Tensor | None]:
        """Returns the gradients of ``inputs``, None where one isn't needed."""
        self._check_versions()
        with torch.enable_grad():
            inputs = [None if t is None else t.view_as(t) for t in self.inputs()]
            trained = cast("list[Tensor]", [t for t, is_needed in zip(inputs, needed, strict=True) if is_needed])
            grads = iter(torch.autograd.grad(self._conv(*inputs), trained, grad_out, create_graph=create_graph))
        return [next(grads) if is_needed else None for is_needed in needed]

    def output_shape(self) -> tuple[int, ...]:
        """Returns [batch, out, height, width]."""
        axes = zip(self.x.shape[2:], self.weight.shape[2:], *self.geometry[:3], strict=True)
        sizes = [(n + 2 * pad - dilation * (k - 1) - 1) // stride + 1 for n, k, stride, pad, dilation in axes]
        return (self.x.shape[0], self.weight.shape[0], *sizes)

    def _conv(self, x: Tensor | None, bias: Tensor | None, up: Tensor | None, down: Tensor | None) -> Tensor:
        change = None if up is None or down is None or self.change is None else self.change._replace(up=up, down=down)
        device, is_on, dtype = self.autocast
        with torch.autocast(device, enabled=is_on, dtype=dtype):
            return low_rank_conv.conv2d(cast(Tensor, x), self.weight, bias, change, None, self.geometry)

    def _tensors(self) -> list[Tensor]:
        return [tensor for tensor in (*self.inputs(), self.weight) if tensor is not None]

    def _check_versions(self) -> None:
        for tensor, version in zip(self._tensors(), self.versions, strict=True):
            check_version(tensor, version)


class DeferredOutput(Tensor):
    """The output of a ``DeferredConv``, computed as soon as code asks for more than its metadata."""

    conv: DeferredConv

    @staticmethod
    def __new__(cls, conv: DeferredConv) -> DeferredOutput:
        size, x = conv.output_shape(), conv.x
        is_channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        memory_format = torch.channels_last if is_channels_last else None
        strides = torch.empty(size, device="meta", memory_format=memory_format).stride()
        output = Tensor._make_wrapper_subclass(cls, size, strides=strides, dtype=compute_dtype(x), device=x.device)
        output.conv = conv
        return output

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _READS_METADATA and not _is_in_place(func) and not _was_written_to(args, kwargs):
            args, kwargs = tree_map(computed, (args, kwargs))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(_detached, (args, kwargs or {}))
        return func(*args, **kwargs)


class _InGraph(torch.autograd.Function):
    """Puts a ``DeferredOutput`` into autograd's graph, for code that uses it as it is, such as other autograd functions."""

    @staticmethod
    def forward(ctx: Any, conv: DeferredConv, *inputs: Tensor | None) -> DeferredOutput:
        ctx.conv = conv
        return DeferredOutput(conv)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.conv.gradients(grads[0], ctx.needs_input_grad[1:], torch.is_grad_enabled())


def defer(conv: DeferredConv) -> Tensor:
    """Returns the convolution's output, not computed yet."""
    inputs = conv.inputs()
    if any(tensor is not None and tensor.requires_grad for tensor in inputs):
        return cast(Tensor, _InGraph.apply(conv, *inputs))
    return DeferredOutput(conv)


def pending_conv(x: Tensor) -> DeferredConv | None:
    """Returns the convolution whose output ``x`` is, if that is not computed yet and no code has used it; else None."""
    is_deferred = isinstance(x, DeferredOutput) and not _was_written_to((x,), {})
    return cast(DeferredOutput, x).conv if is_deferred and cast(DeferredOutput, x).conv.is_pending() else None


def computed(x: Any) -> Any:
    """Returns ``x``, computed if it is a ``DeferredOutput``."""
    if not isinstance(x, DeferredOutput):
        return x
    return x.clone() if _was_written_to((x,), {}) else x.conv.compute()


def _detached(x: Any) -> Any:
    return x.conv.compute_detached() if isinstance(x, DeferredOutput) else x


def _is_in_place(func: Any) -> bool:
    """Returns whether a function writes to its first argument, which autograd then gives another place in the graph."""
    name = getattr(func, "__name__", "")
    return (name.endswith("_") and not name.endswith("__")) or name in _IN_PLACE_OPERATORS


def _was_written_to(args: Any, kwargs: Any) -> bool:
    """Returns whether any code has written to a ``DeferredOutput``: from then on, its own place in the graph counts."""
    with torch._C.DisableTorchFunctionSubclass():
        return any(isinstance(t, DeferredOutput) and t._version > 0 for t in tree_leaves((args, kwargs)))
