"""Which kernels' results nobody reads when a block runs again."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from petl.kernels.memory_layout import MemoryLayout

PASSING_NODES = {  # what autograd calls operations whose gradients need nothing of the values that go through
    *("AddBackward0", "SubBackward0", "NegBackward0", "ToCopyBackward0", "CloneBackward0"),
    *("ViewBackward0", "UnsafeViewBackward0", "PermuteBackward0", "TransposeBackward0", "TBackward0"),
    *("SqueezeBackward0", "SqueezeBackward1", "UnsqueezeBackward0", "ExpandBackward0", "SliceBackward0"),
}
SCALING_NODE = "MulBackward0"  # needs them where both sides have a gradient
FACTORY_FUNCTIONS = {  # new tensors that only look like others
    *("new_empty", "new_zeros", "new_ones", "new_full", "empty_like", "zeros_like", "ones_like"),
    *("rand_like", "randn_like", "full_like"),
}
_PLANS = threading.local()


def run_kernel(kernel: Callable[..., Tensor], *args: Any) -> Tensor:
    """``kernel(*args, None)``; where nobody reads the result, the kernel is told by its last argument what to pretend."""
    runs = None if torch.compiler.is_compiling() else getattr(_PLANS, "runs", None)
    return kernel(*args, None) if runs is None else runs.call(kernel, *args)


class SkipPlan:
    """What a segment's first run learns for those in the backward: which kernels' results nobody will read."""

    def __init__(self) -> None:
        self.made: list[
            tuple[Any, MemoryLayout]
        ] = []  # in the first run: each kernel's autograd node and its result's layout
        self.unread: dict[int, MemoryLayout] = {}  # afterwards: those of the kernels whose results nobody reads
        self.after = 0  # only from this kernel on may results be left out: earlier ones went on without their gradient
        self.at = 0
        self.is_inside = self.is_over = False

    def call(self, kernel: Callable[..., Tensor], *args: Any) -> Tensor:
        self.is_inside = True
        out = kernel(*args, self.unread.get(self.at))
        self.is_inside = False
        self.at += 1
        if not self.is_over:
            self.made.append((out.grad_fn, MemoryLayout(out.shape, out.stride())))
        return out

    def end(self, outputs: Iterable[Any], inputs: Iterable[Any]) -> None:
        """The first run is over: only operations that save no result lead from an unread kernel to the outputs."""
        calls = {node: at for at, (node, _) in enumerate(self.made) if node is not None}
        stop = _grad_nodes(inputs)

        def passes(node: Any) -> bool:
            return node not in calls and node not in stop and _saves_no_result(node)

        passed = _reachable(_grad_nodes(outputs), passes)
        behind = {n for node in passed if node not in stop and not passes(node) for n in _next_nodes(node)}
        free = {calls[node] for node in passed - _reachable(behind, lambda node: node not in stop) if node in calls}
        self.unread = {at: self.made[at][1] for at in free if at >= self.after}
        self.made, self.is_over = [], True

    def contexts(self) -> tuple[Any, Any]:
        """For the first run and for those in the backward, as torch's checkpoint takes them."""
        return self._first(), _ActivePlan(self)

    @contextlib.contextmanager
    def _first(self) -> Iterator[None]:
        with _DetachRecorder(self), _ActivePlan(self):
            yield


class _DetachRecorder(TorchFunctionMode):
    """Sees where values go on without their gradient: the graph doesn't tell whether these are read later."""

    def __init__(self, runs: SkipPlan):
        super().__init__()
        self.runs = runs

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if (
            made
            and not all(tensor.requires_grad for tensor in made)
            and getattr(func, "__name__", "") not in FACTORY_FUNCTIONS
        ):
            given = tree_leaves((args, kwargs))
            if not self.runs.is_inside and any(isinstance(t, Tensor) and t.requires_grad for t in given):
                self.runs.after = self.runs.at
        return out


class _ActivePlan:
    """A context, entered many times: kernels ask this segment's runs."""

    def __init__(self, runs: SkipPlan):
        self.runs = runs

    def __enter__(self) -> None:
        self.before, self.runs.at = getattr(_PLANS, "runs", None), 0
        _PLANS.runs = self.runs

    def __exit__(self, *error: Any) -> None:
        _PLANS.runs = self.before


def _grad_nodes(values: Iterable[Any]) -> set[Any]:
    """The autograd nodes of those of the values that are tensors and have one."""
    return {value.grad_fn for value in values if isinstance(value, Tensor) and value.grad_fn is not None}


def _next_nodes(node: Any) -> list[Any]:
    """The nodes that this one hands its gradients to."""
    return [before for before, _ in node.next_functions if before is not None]


def _saves_no_result(node: Any) -> bool:
    return node.name() in PASSING_NODES or (node.name() == SCALING_NODE and len(_next_nodes(node)) == 1)


def _reachable(nodes: set[Any], goes_on: Callable[[Any], bool]) -> set[Any]:
    """``nodes`` and all those that get gradients from them, but for what lies behind nodes that ``goes_on`` denies."""
    seen, left = set(), [*nodes]
    while left:
        node = left.pop()
        if node not in seen:
            seen.add(node)
            left += _next_nodes(node) if goes_on(node) else []
    return seen
