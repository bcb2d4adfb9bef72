"""Finds kernels whose outputs nobody reads when a checkpointed block runs a second time, and skips their computation.

What the last layers of a block return is often only added to the block's output. In the second run, these layers only have to
keep what they need for their own gradients: the values of their outputs are not needed.
"""

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

PASSING_NODES = {  # autograd's names of operations whose gradients need none of the operation's inputs or outputs
    *("AddBackward0", "SubBackward0", "NegBackward0", "ToCopyBackward0", "CloneBackward0"),
    *("ViewBackward0", "UnsafeViewBackward0", "PermuteBackward0", "TransposeBackward0", "TBackward0"),
    *("SqueezeBackward0", "SqueezeBackward1", "UnsqueezeBackward0", "ExpandBackward0", "SliceBackward0"),
}
SCALING_NODE = "MulBackward0"  # needs the inputs only where both have a gradient
FACTORY_FUNCTIONS = {  # make new tensors, and read only the shape of their argument
    *("new_empty", "new_zeros", "new_ones", "new_full", "empty_like", "zeros_like", "ones_like"),
    *("rand_like", "randn_like", "full_like"),
}
_ACTIVE_PLAN = threading.local()


def run_kernel(kernel: Callable[..., Tensor], *args: Any) -> Tensor:
    """Returns ``kernel(*args, None)``; where nobody reads the output, its last argument is the output's memory layout."""
    plan = None if torch.compiler.is_compiling() else getattr(_ACTIVE_PLAN, "plan", None)
    return kernel(*args, None) if plan is None else plan.run(kernel, *args)


class SkipPlan:
    """What the first run of a block tells its runs in the backward: the kernels whose outputs nobody will read.

    Attributes:
        calls: in the first run, the autograd node and the output's layout of each kernel, in order.
        unused_outputs: after it, by the number of the kernel's call, the layouts of outputs that nobody reads.
        first_skippable: outputs of earlier kernels were detached and may be read, so only later ones can be skipped.
        position: the number of the next kernel's call in this run.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[Any, MemoryLayout]] = []
        self.unused_outputs: dict[int, MemoryLayout] = {}
        self.first_skippable = self.position = 0
        self.is_inside_kernel = self.is_complete = False

    def run(self, kernel: Callable[..., Tensor], *args: Any) -> Tensor:
        """Runs the kernel, without computing its output where nobody reads that."""
        self.is_inside_kernel = True
        out = kernel(*args, self.unused_outputs.get(self.position))
        self.is_inside_kernel = False
        self.position += 1
        if not self.is_complete:
            self.calls.append((out.grad_fn, MemoryLayout(out.shape, out.stride())))
        return out

    def end_first_run(self, outputs: Iterable[Any], inputs: Iterable[Any]) -> None:
        """Finds the unused outputs: those that reach the block's outputs only through operations that save no values."""
        kernels = {node: at for at, (node, _) in enumerate(self.calls) if node is not None}
        ends = _grad_nodes(inputs)

        def passes(node: Any) -> bool:
            return node not in kernels and node not in ends and _saves_no_values(node)

        passed = _reachable(_grad_nodes(outputs), passes)
        behind = {n for node in passed if node not in ends and not passes(node) for n in _next_nodes(node)}
        read = _reachable(behind, lambda node: node not in ends)
        unused = {kernels[node] for node in passed - read if node in kernels}
        self.unused_outputs = {at: self.calls[at][1] for at in unused if at >= self.first_skippable}
        self.calls, self.is_complete = [], True

    def contexts(self) -> tuple[Any, Any]:
        """Returns the contexts of the first run and of those in the backward, as ``context_fn`` of torch's checkpoint."""
        return self._first_run(), _FollowedPlan(self)

    @contextlib.contextmanager
    def _first_run(self) -> Iterator[None]:
        with _DetachRecorder(self), _FollowedPlan(self):
            yield


class _DetachRecorder(TorchFunctionMode):
    """Records where values are used without their gradient: autograd's graph doesn't tell whether these are read later."""

    def __init__(self, plan: SkipPlan):
        super().__init__()
        self.plan = plan

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        is_detached = any(isinstance(leaf, Tensor) and not leaf.requires_grad for leaf in tree_leaves(out))
        if is_detached and getattr(func, "__name__", "") not in FACTORY_FUNCTIONS:
            inputs = tree_leaves((args, kwargs))
            if not self.plan.is_inside_kernel and any(isinstance(t, Tensor) and t.requires_grad for t in inputs):
                self.plan.first_skippable = self.plan.position
        return out


class _FollowedPlan:
    """A context, entered once a run: inside, kernels follow this plan."""

    def __init__(self, plan: SkipPlan):
        self.plan = plan

    def __enter__(self) -> None:
        self.before, self.plan.position = getattr(_ACTIVE_PLAN, "plan", None), 0
        _ACTIVE_PLAN.plan = self.plan

    def __exit__(self, *error: Any) -> None:
        _ACTIVE_PLAN.plan = self.before


def _grad_nodes(values: Iterable[Any]) -> set[Any]:
    """Returns the autograd nodes of those values that are tensors and have one."""
    return {value.grad_fn for value in values if isinstance(value, Tensor) and value.grad_fn is not None}


def _next_nodes(node: Any) -> list[Any]:
    """Returns the nodes that this one passes its gradients to."""
    return [following for following, _ in node.next_functions if following is not None]


def _saves_no_values(node: Any) -> bool:
    return node.name() in PASSING_NODES or (node.name() == SCALING_NODE and len(_next_nodes(node)) == 1)


def _reachable(nodes: set[Any], goes_on: Callable[[Any], bool]) -> set[Any]:
    """Returns ``nodes`` and all that get gradients from them; the search stops at nodes where ``goes_on`` is false."""
    reached, waiting = set(), [*nodes]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting += _next_nodes(node) if goes_on(node) else []
    return reached
