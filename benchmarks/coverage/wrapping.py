"""A method put onto a model: the figures, or a refusal and whether it is right."""

from __future__ import annotations

import time
from typing import Any

from torch import nn

import petl
from benchmarks.coverage.heads import head, is_head
from benchmarks.coverage.models import create_args
from benchmarks.coverage.plan import COMBINED, Pair, methods
from benchmarks.coverage.verdict import short

PROJECTIONS = ("qkv", "kv", "q", "k", "v", "q_proj", "k_proj", "v_proj", "to_qkv", "to_q", "in_proj", "qkv_proj")
NORMS = ("norm", "globalresponse", "evonorm", "filterresponse")


def wrapped(pair: Pair, model: nn.Module, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
    """Wrap ``model``, in place: the figures, or the refusal, which counts as not applicable where the model bears it out."""
    columns, line = COMBINED if pair.column == "combined" else (pair.column,), {}
    for column in columns:
        chosen, options = methods(column, pair.architecture)
        began = time.perf_counter()
        try:
            petl.wrap(model, chosen, **options, **head(model), **create_args(arguments or {}))
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
