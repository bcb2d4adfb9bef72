"""Do torch.compile and torch.export take the wrapped model wherever they take the bare one, with the same numbers?

``compile`` is ``torch.compile(model, fullgraph=True, backend="eager")``: dynamo alone. What is asked is whether the model is
one graph without breaks, not what inductor makes of it. It runs in training mode with a backward, and in evaluation
without gradients. ``export`` is ``torch.export.export`` in evaluation mode. The wrapped model has LoRA on every layer and an
input adapter, with noise on all that trains, so a graph without the delta would answer something else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import petl
from benchmarks.coverage.heads import head
from benchmarks.coverage.models import create_args, images, lively, sizes
from benchmarks.coverage.plan import Pair, channels
from benchmarks.coverage.verdict import short
from petl.inspection.check import (
    _leave_nothing_out,
    _loss,  # as the oracle trains
)

OUTPUT = 1e-3  # how far outputs may be apart, in units of their standard deviation
GRADIENT = 1e-2  # how far all gradients together may be apart, in units of their norm
NOISE = 0.05
EVERY_LAYER = ("linear", "conv", "depthwise")


class Differs(Exception):
    """The graph answers something else than the model that it was made of."""


def graphs(pair: Pair) -> dict[str, Any]:
    """The bare model first: what it can't do is asked of no wrapped one."""
    side, arguments = sizes(pair.architecture, pair.arguments)[0]
    base, attempt = lively(pair.architecture, arguments, side), ATTEMPTS[pair.column]
    line: dict[str, Any] = {"size": side}
    try:
        line["bare_gap"] = attempt(copy.deepcopy(base), images(side, 3))
    except Exception as error:  # any model code runs here, and compilers raise many things
        return {**line, "status": "n/a", "reason": f"the bare model: {told(error)}"}
    model = adapted(pair, base, arguments)
    line["sites"] = len({name for names in petl.record(model).sites for name in names})  # type: ignore[union-attr]
    try:
        line["gap"] = attempt(model, images(side, channels(pair.architecture)))
    except Exception as error:  # as above
        return {**line, "status": "fail", "reason": told(error)}
    return {**line, "status": "pass"}


def adapted(pair: Pair, base: nn.Module, arguments: Any) -> nn.Module:
    """A wrapped copy, as if it had been trained."""
    torch.manual_seed(0)
    methods = [petl.LoRA(rank=4, where=EVERY_LAYER), petl.Input(in_chans=channels(pair.architecture))]
    model = petl.wrap(copy.deepcopy(base), methods, **head(base), **create_args(arguments))
    with torch.no_grad():
        for p in petl.trainable(model).values():
            p.add_(torch.randn_like(p), alpha=NOISE)
    return model


def compiled(model: nn.Module, batch: Tensor) -> float:
    """How far the compiled model is from the model itself, in both modes; raises where the graph breaks."""
    gaps = []
    for training in (True, False):
        torch._dynamo.reset()
        model.train(training)
        _leave_nothing_out(model)
        expected = answers(model, model, batch)
        gaps.append(compare(answers(torch.compile(model, fullgraph=True, backend="eager"), model, batch), expected))
    torch._dynamo.reset()
    return max(gaps)


def exported(model: nn.Module, batch: Tensor) -> float:
    """How far the exported program is from the model."""
    torch._dynamo.reset()
    model.eval()
    program = torch.export.export(model, (batch,))
    return compare(answers(program.module(), model, batch), answers(model, model, batch))


ATTEMPTS: dict[str, Callable[[nn.Module, Tensor], float]] = {"compile": compiled, "export": exported}


def answers(
    graph: Callable[[Tensor], Any], model: nn.Module, batch: Tensor
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Outputs of the model or of its graph; in training mode also the gradients of the model's parameters."""
    model.zero_grad()
    with torch.set_grad_enabled(model.training):
        out = graph(batch)
        if model.training:
            _loss(out).backward()
    grads = [p.grad for p in model.parameters()] if model.training else []
    return [t.detach() for t in tree_leaves(out) if isinstance(t, Tensor)], grads


def compare(
    seen: tuple[list[Tensor], list[Tensor | None]], expected: tuple[list[Tensor], list[Tensor | None]]
) -> float:
    """The largest distance of an output in units of its standard deviation."""
    (outs, grads), (right, slopes) = seen, expected
    if [t.shape for t in outs] != [t.shape for t in right]:
        raise Differs(f"outputs {[tuple(t.shape) for t in outs]} instead of {[tuple(t.shape) for t in right]}")
    gap = max(float((a - b).abs().max() / b.std()) for a, b in zip(outs, right, strict=True))
    if not gap <= OUTPUT:  # NaN is not
        raise Differs(f"the output differs by {gap:.3g} standard deviations")
    if [g is None for g in grads] != [g is None for g in slopes]:
        raise Differs("other tensors get a gradient")
    off = norm(a - b for a, b in zip(grads, slopes, strict=True) if a is not None and b is not None)
    if off > GRADIENT * norm(g for g in slopes if g is not None):
        raise Differs(f"the gradients differ by {off:.3g} of {norm(g for g in slopes if g is not None):.3g}")
    return round(gap, 9)


def norm(tensors: Iterable[Tensor]) -> float:
    return float(sum(float(t.double().square().sum()) for t in tensors)) ** 0.5


def told(error: Exception) -> str:
    """The first lines of what was raised; compilers add pages of advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return short(f"{type(error).__name__}: {' '.join(lines[:4])}", 240)
