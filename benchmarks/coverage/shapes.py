"""Depth `shapes`: every architecture on the meta device, which has shapes and no memory."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import petl
from benchmarks.coverage.heads import is_head
from benchmarks.coverage.models import default_size, on_meta
from benchmarks.coverage.plan import CLASSES, Pair, in_chans
from benchmarks.coverage.verdict import judged, some
from benchmarks.coverage.wrapping import wrapped
from petl.delta.tensors import delta_tensors
from petl.sites.survey import Survey, survey_model
from petl.wrapping import preconditions


def shapes(pair: Pair) -> dict[str, Any]:
    """Wrap the model on the meta device, run it, look at its head, its delta and its keys, and unwrap it."""
    model = on_meta(pair.architecture, pair.arguments)
    before, size = portrait(model), default_size(model)
    try:
        with mock.patch.object(preconditions, "survey_model", cached_survey):
            line = {"size": max(size), **_shaped(pair, model, size)}
        if line["status"] == "n/a":
            return line
        petl.unwrap(model)
        changed = [key for key, now in portrait(model).items() if now != before[key]]
        return judged(line, {**line["points"], "unwrap": f"other {', '.join(changed)} than before" if changed else ""})
    except BaseException:
        on_meta.cache_clear()  # it may be half wrapped
        raise


def cached_survey(model: nn.Module, size: Any = None) -> Survey:
    """petl's survey of a model, which is as it was before: made for the first method only, as it is half of the work."""
    found = _surveyed(model, size)
    return dataclasses.replace(found, calls=dict(found.calls), read_parameters=set(found.read_parameters))


@functools.lru_cache(maxsize=1)
def _surveyed(model: nn.Module, size: Any) -> Survey:
    return survey_model(model, size)


def _shaped(pair: Pair, model: nn.Module, size: tuple[int, int]) -> dict[str, Any]:
    keys = set(model.state_dict())
    line = wrapped(pair, model)
    if line["status"] == "n/a":
        return line
    with torch.no_grad(), torch.device("meta"):
        out = [
            t
            for t in tree_leaves(model(torch.empty(2, in_chans(pair.column, pair.architecture), *size)))
            if is_tensor(t)
        ]
    line["points"] = {"forward": "" if out else "no tensor comes out", "head": _head(model, out), **_delta(model, keys)}
    if pair.column == "lora-depthwise":
        line["left"] = left(model)
    return line


def _head(model: nn.Module, out: list[Tensor]) -> str:
    """What is wrong with the classifier: it has the new number of classes, and all of it trains."""
    if not hasattr(model, "reset_classifier"):
        return "n/a: an encoder without a classifier"
    if tuple(out[0].shape) != (2, CLASSES):
        return f"the output is {tuple(out[0].shape)}, not {(2, CLASSES)}"
    tops = [m for m in tree_leaves(model.get_classifier()) if isinstance(m, nn.Module)]  # type: ignore[operator]
    frozen = sum(not p.requires_grad for top in tops for p in top.parameters())
    return f"{frozen} tensors of get_classifier() don't train" if frozen else ""


def _delta(model: nn.Module, keys: set[str]) -> dict[str, str]:
    """The keys of the model, and what would be saved, against what trains and what moves."""
    record, now = petl.record(model), model.state_dict(keep_vars=True)
    planned, _ = delta_tensors(model, record)  # type: ignore[arg-type]
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    moving = {f"{name}.{leaf}" for name, m in model.train().named_modules() for leaf in m._buffers if _moves(m)}
    model.eval()
    new = {key for key in now if key not in keys}
    lost = {key for key in keys if key not in now and not is_head(model, key)}
    twice = {key for key in new if key not in planned and id(now[key]) not in {id(now[k]) for k in planned}}
    return {
        "keys": f"lost {some(lost)}" if lost else f"new, but not saved: {some(twice)}" if twice else "",
        "delta": f"saved and trained differ: {some({*planned} ^ (trains | moving))}"
        if {*planned} ^ (trains | moving)
        else "",
    }


def _moves(module: nn.Module) -> bool:
    """Whether running statistics move in the next training step."""
    return module.training and module._buffers.get("running_mean") is not None


def left(model: nn.Module) -> dict[str, int]:
    """Matrices and kernels outside the classifier that LoRA on every layer leaves alone: their owners' classes, counted."""
    owners = [(m, leaf) for m in model.modules() for leaf, p in m._parameters.items() if is_untouched(p)]
    return dict(
        Counter(
            f"{type(m).__name__}.{leaf}"
            for m, leaf in owners
            if not any(n.startswith("lora") for n, _ in m.named_children())
        )
    )


def is_untouched(p: Tensor | None) -> bool:
    return p is not None and is_matrix(p) and not p.requires_grad


def is_matrix(p: Tensor) -> bool:
    return p.ndim > 1 and p.numel() > max(p.shape)


def portrait(model: nn.Module) -> dict[str, Any]:
    """What unwrapping must give back, as far as shapes go."""
    return {
        "keys": [(k, tuple(v.shape), v.dtype) for k, v in model.state_dict().items()],
        "classes": [(name, type(module)) for name, module in model.named_modules()],
        "flags": [p.requires_grad for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
    }


def is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
