"""Blocks that keep their input alone and run again in the backward (Chen et al. 2016, arXiv:1604.06174).

torch's checkpoint runs them again. What the last layers of a block return is often only added to its output, and read by
nobody in the second run: these layers keep there what they need for their own gradients, and compute nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from torch.utils.checkpoint import checkpoint

from petl.graft.kinds import FastPath
from petl.kernels.low_rank import Layout
from petl.memory.block_state import FirstRun
from petl.memory.recompute import recording
from petl.sites.layers import is_layer
from petl.sites.names import ancestors, topmost, within
from petl.sites.survey import Survey

PASSING = {  # what autograd calls operations whose gradients need nothing of the values that go through
    *("AddBackward0", "SubBackward0", "NegBackward0", "ToCopyBackward0", "CloneBackward0"),
    *("ViewBackward0", "UnsafeViewBackward0", "PermuteBackward0", "TransposeBackward0", "TBackward0"),
    *("SqueezeBackward0", "SqueezeBackward1", "UnsqueezeBackward0", "ExpandBackward0", "SliceBackward0"),
}
SCALING = "MulBackward0"  # needs them where both sides have a gradient
FRESH = {  # new tensors that only look like others
    *("new_empty", "new_zeros", "new_ones", "new_full", "empty_like", "zeros_like", "ones_like"),
    *("rand_like", "randn_like", "full_like"),
}
SLACK = 1 / 16  # this share of the numbers may be kept rather than made again, where that saves the most time
_STATE = threading.local()


class Segment(FastPath):
    """A block that keeps its input alone and runs again in the backward."""

    around_grafts = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        plain, block = super().forward, cast(nn.Module, self)  # type: ignore[misc]  # the base class's forward comes next
        if not recording(*args, kwargs) or not block.training or torch._C._are_functorch_transforms_active():
            return plain(*args, **kwargs)
        leaves, tree = tree_flatten((args, kwargs))  # lists may grow before the block runs again
        first = None if torch.compiler.is_compiling() else FirstRun(block, leaves)

        def run(*given: Any) -> Any:
            args, kwargs = tree_unflatten(given, tree)
            with contextlib.nullcontext() if first is None else first.repeated():
                return plain(*args, **kwargs)

        out = self._run(run, leaves)
        if first is not None:
            first.end()
        return out

    def _run(self, run: Callable[..., Any], leaves: list[Any]) -> Any:
        runs = Runs() if _may_skip(cast(nn.Module, self)) else None
        if runs is None:
            return checkpoint(run, *leaves, use_reentrant=False)
        out = checkpoint(run, *leaves, use_reentrant=False, context_fn=runs.contexts)
        runs.end(tree_leaves(out), leaves)
        return out


def call(kernel: Callable[..., Tensor], *args: Any) -> Tensor:
    """``kernel(*args, None)``; where nobody reads the result, the kernel is told by its last argument what to pretend."""
    runs = None if torch.compiler.is_compiling() else getattr(_STATE, "runs", None)
    return kernel(*args, None) if runs is None else runs.call(kernel, *args)


class Runs:
    """What a segment's first run learns for those in the backward: which kernels' results nobody will read."""

    def __init__(self) -> None:
        self.made: list[
            tuple[Any, Layout]
        ] = []  # in the first run: each kernel's autograd node and its result's layout
        self.unread: dict[int, Layout] = {}  # afterwards: those of the kernels whose results nobody reads
        self.after = 0  # only from this kernel on may results be left out: earlier ones went on without their gradient
        self.at = 0
        self.is_inside = self.is_over = False

    def call(self, kernel: Callable[..., Tensor], *args: Any) -> Tensor:
        self.is_inside = True
        out = kernel(*args, self.unread.get(self.at))
        self.is_inside = False
        self.at += 1
        if not self.is_over:
            self.made.append((out.grad_fn, Layout(out.shape, out.stride())))
        return out

    def end(self, outputs: Iterable[Any], inputs: Iterable[Any]) -> None:
        """The first run is over: only operations that save no result lead from an unread kernel to the outputs."""
        calls = {node: at for at, (node, _) in enumerate(self.made) if node is not None}
        stop = _nodes(inputs)

        def passes(node: Any) -> bool:
            return node not in calls and node not in stop and _passes(node)

        passed = _reached(_nodes(outputs), passes)
        behind = {n for node in passed if node not in stop and not passes(node) for n in _before(node)}
        free = {calls[node] for node in passed - _reached(behind, lambda node: node not in stop) if node in calls}
        self.unread = {at: self.made[at][1] for at in free if at >= self.after}
        self.made, self.is_over = [], True

    def contexts(self) -> tuple[Any, Any]:
        """For the first run and for those in the backward, as torch's checkpoint takes them."""
        return self._first(), _Active(self)

    @contextlib.contextmanager
    def _first(self) -> Iterator[None]:
        with _Cuts(self), _Active(self):
            yield


class _Cuts(TorchFunctionMode):
    """Sees where values go on without their gradient: the graph doesn't tell whether these are read later."""

    def __init__(self, runs: Runs):
        super().__init__()
        self.runs = runs

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if made and not all(tensor.requires_grad for tensor in made) and getattr(func, "__name__", "") not in FRESH:
            given = tree_leaves((args, kwargs))
            if not self.runs.is_inside and any(isinstance(t, Tensor) and t.requires_grad for t in given):
                self.runs.after = self.runs.at
        return out


class _Active:
    """A context, entered many times: kernels ask this segment's runs."""

    def __init__(self, runs: Runs):
        self.runs = runs

    def __enter__(self) -> None:
        self.before, self.runs.at = getattr(_STATE, "runs", None), 0
        _STATE.runs = self.runs

    def __exit__(self, *error: Any) -> None:
        _STATE.runs = self.before


def _may_skip(block: nn.Module) -> bool:
    """Whether nobody but the block itself sees what its layers return, in a run that autograd alone records."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return not is_watched(block)


def is_watched(block: nn.Module) -> bool:
    """Whether somebody sees what modules inside the block take and return, or their gradients."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    seen = any(getattr(part, kind) for part in block.modules() if part is not block for kind in hooks)
    return seen or bool(torch.nn.modules.module._has_any_global_hook())


def _nodes(values: Iterable[Any]) -> set[Any]:
    """The autograd nodes of those of the values that are tensors and have one."""
    return {value.grad_fn for value in values if isinstance(value, Tensor) and value.grad_fn is not None}


def _before(node: Any) -> list[Any]:
    """The nodes that this one hands its gradients to."""
    return [before for before, _ in node.next_functions if before is not None]


def _passes(node: Any) -> bool:
    return node.name() in PASSING or (node.name() == SCALING and len(_before(node)) == 1)


def _reached(nodes: set[Any], goes_on: Callable[[Any], bool]) -> set[Any]:
    """``nodes`` and all those that get gradients from them, but for what lies behind nodes that ``goes_on`` denies."""
    seen, left = set(), [*nodes]
    while left:
        node = left.pop()
        if node not in seen:
            seen.add(node)
            left += _before(node) if goes_on(node) else []
    return seen


def segments(found: Survey) -> list[str]:
    """Modules to run again in the backward: together they keep, with the largest of them run again, the fewest numbers.

    Each candidate set is made of the topmost modules whose inner results are at most some number. Of the best set, those
    that are the most work for what they would keep run once only, up to ``SLACK`` of the model's numbers: the last stages
    of a pyramid are as much work as the first ones, and keep a fraction.
    """
    inner = _inside(found, lambda layer, numbers: numbers)
    head = found.head or []
    can = {name for name in found.calls if name and not within(name, head) and name not in found.overwriting}
    free = {name: count for name, count in inner.items() if name in can}
    candidates = (topmost(name for name, count in free.items() if count <= most) for most in {*free.values()})
    best = min(candidates, key=lambda chosen: _cost(found, inner, chosen), default=[])
    work = _inside(found, _work)
    dear = sorted(best, key=lambda name: inner[name] / max(1, work[name]))
    kept = itertools.accumulate(inner[name] for name in dear)
    return dear[sum(1 for count in kept if count <= SLACK * inner[""]) :]


def _inside(found: Survey, measure: Callable[[nn.Module, int], int]) -> Counter[str]:
    """For each module with layers inside, the sum of ``measure(layer, numbers that it returns)`` over these.

    What norms and activations return isn't kept.
    """
    inner: Counter[str] = Counter()
    for name, call in found.calls.items():
        if is_layer(layer := found.modules[name]):
            inner.update(dict.fromkeys(("", *ancestors(name)) if name else (), measure(layer, _count(call.outputs))))
    return inner


def _work(layer: nn.Module, numbers: int) -> int:
    """Multiplications, about: for each number a row of the weight."""
    return numbers * sum(p[0].numel() for p in layer._parameters.values() if p is not None and p.ndim)


def _cost(found: Survey, inner: Counter[str], chosen: list[str]) -> int:
    """Numbers kept outside the chosen modules, as their inputs, and inside the largest while it runs again."""
    covered = sum(inner[name] for name in chosen)
    kept = sum(_count(found.calls[name].inputs[:1]) for name in chosen)
    return inner[""] - covered + kept + max((inner[name] for name in chosen), default=0)


def _count(shapes: list[tuple[int, ...]]) -> int:
    return sum(torch.Size(shape).numel() for shape in shapes)
