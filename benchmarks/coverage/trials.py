"""Trying one pair: on shapes alone, or for real through petl's own oracle, ``petl.check``."""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
import sys
import time
from collections import Counter
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import petl
from benchmarks.coverage.models import Arguments, default_size, images, lively, on_meta, sizes
from benchmarks.coverage.plan import CLASSES, COMBINED, Pair, in_chans, methods
from petl.delta import delta_tensors
from petl.survey import Survey, survey

PROJECTIONS = ("qkv", "kv", "q", "k", "v", "q_proj", "k_proj", "v_proj", "to_qkv", "to_q", "in_proj", "qkv_proj")
NORMS = ("norm", "globalresponse", "evonorm", "filterresponse")


def tried(pair: Pair) -> dict[str, Any]:
    """The line of this pair: status, reason, figures and points."""
    if pair.depth == "rival":
        from benchmarks.coverage.peft import rival

        return rival(pair)
    if pair.depth == "graphs":
        from benchmarks.coverage.graphs import graphs

        return graphs(pair)
    return shapes(pair) if pair.depth == "shapes" else real(pair)


# --- shapes -----------------------------------------------------------------------------------------------------------


def shapes(pair: Pair) -> dict[str, Any]:
    """Wrap the model on the meta device, run it, look at its head, its delta and its keys, and unwrap it."""
    model = on_meta(pair.architecture, pair.arguments)
    before, size = portrait(model), default_size(model)
    try:
        with mock.patch.object(sys.modules["petl.wrap"], "survey", again):  # the module, not the function of that name
            line = {"size": max(size), **_shaped(pair, model, size)}
        if line["status"] == "n/a":
            return line
        petl.unwrap(model)
        changed = [key for key, now in portrait(model).items() if now != before[key]]
        return judged(line, {**line["points"], "unwrap": f"other {', '.join(changed)} than before" if changed else ""})
    except BaseException:
        on_meta.cache_clear()  # it may be half wrapped
        raise


def again(model: nn.Module, size: Any = None) -> Survey:
    """petl's survey of a model, which is as it was before: made for the first method only, as it is half of the work."""
    found = _surveyed(model, size)
    return dataclasses.replace(found, calls=dict(found.calls), used=set(found.used))


@functools.lru_cache(maxsize=1)
def _surveyed(model: nn.Module, size: Any) -> Survey:
    return survey(model, size)


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
    made, now = petl.record(model), model.state_dict(keep_vars=True)
    planned, _ = delta_tensors(model, made)  # type: ignore[arg-type]
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
    owners = [(m, leaf) for m in model.modules() for leaf, p in m._parameters.items() if is_left(p)]
    return dict(
        Counter(
            f"{type(m).__name__}.{leaf}"
            for m, leaf in owners
            if not any(n.startswith("lora") for n, _ in m.named_children())
        )
    )


def is_left(p: Tensor | None) -> bool:
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


# --- real -------------------------------------------------------------------------------------------------------------


def real(pair: Pair) -> dict[str, Any]:
    """petl's own oracle, at the smallest size; where a gradient is missing there, at the usual size, then in float64.

    Last with other random weights: all units of a narrow squeeze-and-excitation may be dead by chance (sehalonet33ts).
    """
    line: dict[str, Any] = {}
    usual = sizes(pair.architecture, pair.arguments)
    single, double = torch.float32, torch.float64
    for size, dtype, seed in [*((size, single, 0) for size in usual), (usual[-1], double, 0), (usual[-1], double, 1)]:
        line = checked(pair, *size, dtype, seed)
        if "gradients" not in line.get("points", {}):
            break
    return line


def checked(pair: Pair, side: int, arguments: Arguments, dtype: torch.dtype, seed: int) -> dict[str, Any]:
    base = lively(pair.architecture, arguments, side, dtype, seed)
    model = copy.deepcopy(base)
    torch.manual_seed(0)
    line = {"size": side, **wrapped(pair, model, dict(arguments))}
    if dtype != torch.float32:
        line["dtype"] = str(dtype).removeprefix("torch.")
    if seed:
        line["seed"] = seed
    del model
    if line["status"] == "n/a":
        return line
    chosen, options = methods(line.get("used", pair.column), pair.architecture)
    batch = images(side, in_chans(line.get("used", pair.column), pair.architecture)).to(dtype)
    report = petl.check(base, batch, chosen, **options, **head(base), **created(arguments))
    return judged(
        line,
        {f.point: "" if f.status == "pass" else f"{'n/a: ' if f.status == 'n/a' else ''}{f.detail}" for f in report},
    )


# --- both -------------------------------------------------------------------------------------------------------------


def wrapped(pair: Pair, model: nn.Module, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
    """Wrap ``model``, in place: the figures, or the refusal, which counts as not applicable where the model bears it out."""
    columns, line = COMBINED if pair.column == "combined" else (pair.column,), {}
    for column in columns:
        chosen, options = methods(column, pair.architecture)
        began = time.perf_counter()
        try:
            petl.wrap(model, chosen, **options, **head(model), **created(arguments or {}))
        except petl.PetlError as error:
            if not bears_out(model, column):
                raise
            line = {"status": "n/a", "reason": short(str(error), 110)}
            continue
        made = petl.record(model)
        return {
            "status": "pass",
            "sites": len({name for names in made.sites for name in names}),  # type: ignore[union-attr]
            "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "bytes": petl.summary(model).bytes,
            "wrap_s": round(time.perf_counter() - began, 2),
            **({"used": column} if column != pair.column else {}),
            "points": {},
        }
    return line


def bears_out(model: nn.Module, column: str) -> bool:
    """Whether the model really lacks what the method is for, by a look of our own."""
    inside = [(name, m) for name, m in model.named_modules() if not is_head(model, name)]
    with_norms = {
        "bn": any(m._buffers.get("running_mean") is not None for _, m in inside),
        "norm": any(word in type(m).__name__.lower() and _has_vector(m) for _, m in inside for word in NORMS),
    }
    there = {
        "probe": hasattr(model, "reset_classifier"),
        **with_norms,
        **{column: all(with_norms.get(word, True) for word in column.split("+")) for column in COMBINED},
        "lora-qv": any(name.rpartition(".")[2] in PROJECTIONS and m._parameters for name, m in inside),
        "bias": any(m._parameters.get("bias") is not None for _, m in inside),
    }
    return not there.get(column, True)


def _has_vector(module: nn.Module) -> bool:
    """Whether it has a parameter of its own with dimensions: a NormFreeBlock has a gain without."""
    return any(p is not None and p.ndim for p in module._parameters.values())


def head(model: nn.Module) -> dict[str, Any]:
    """A new classifier, where the model has one by timm's contract."""
    return {"num_classes": CLASSES} if hasattr(model, "reset_classifier") else {"head": False}


def created(arguments: Any) -> dict[str, Any]:
    return {"create_args": dict(arguments)} if arguments else {}


def is_head(model: nn.Module, key: str) -> bool:
    """Whether the key lies in what timm's config or ``get_classifier`` calls the classifier."""
    named = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    tops = [named] if isinstance(named, str) else list(named)
    found = {id(m) for m in tree_leaves(model.get_classifier())} if hasattr(model, "get_classifier") else set()  # type: ignore[operator]
    tops += [name for name, module in model.named_modules() if id(module) in found]
    return any(key == top or key.startswith(f"{top}.") for top in [*tops, "head_dist"])


def judged(line: dict[str, Any], points: dict[str, str]) -> dict[str, Any]:
    """The line with its points: how many passed, and of the others what was seen; one failed point fails the line."""
    failed = {name: seen for name, seen in points.items() if seen and not seen.startswith("n/a")}
    line["passed"] = sum(not seen for seen in points.values())
    line["points"] = {name: why(seen) for name, seen in points.items() if seen}
    line["status"] = "fail" if failed else "pass"
    return line


def why(seen: str) -> str:
    """What was seen, short; of a merge that can't be, the reason alone."""
    seen = re.sub(r"can't merge .* into a weight \((.*)\);.*", r"\1", seen)
    return short(seen, 110 if seen.startswith("n/a") else 240)


def short(text: str, most: int = 240) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
