"""Depths `real`, `every` and `sample`: the whole contract, through petl's own oracle, `petl.check`."""

from __future__ import annotations

import copy
from typing import Any

import torch

import petl
from benchmarks.coverage.heads import head
from benchmarks.coverage.models import Arguments, create_args, images, lively, sizes
from benchmarks.coverage.plan import Pair, in_chans, methods
from benchmarks.coverage.verdict import judged
from benchmarks.coverage.wrapping import wrapped


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
    report = petl.check(base, batch, chosen, **options, **head(base), **create_args(arguments))
    return judged(
        line,
        {f.point: "" if f.status == "pass" else f"{'n/a: ' if f.status == 'n/a' else ''}{f.detail}" for f in report},
    )
