"""Nets of convolutions and frozen norms, run cheaply and plainly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import petl

Net = Any  # of timm's: its attributes are modules, which type checkers don't know
Run = Callable[[Net, Tensor], Tensor]


def measured(run: Run, model: Net, x: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model.zero_grad()
    x = x.clone().requires_grad_()
    out = run(model, x)
    assert type(out) is Tensor
    (out**2).sum().backward()
    grads = {key: p.grad.clone() for key, p in petl.trainable(model).items() if p.grad is not None}
    return {"output": out.detach(), "x": x.grad if x.grad is not None else torch.zeros_like(x), **grads}


def same(run: Run, cheap: Net, plain: Net, x: Tensor, most: float = 1e-9) -> None:
    mine, theirs = measured(run, cheap, x), measured(run, plain, x)
    assert mine.keys() == theirs.keys()
    least = 1e-9 * max(float(v.norm()) for v in theirs.values())  # biases before a norm have no gradient but rounding
    far = {k: float((mine[k] - v).norm()) / max(float(v.norm()), least) for k, v in theirs.items()}
    assert max(far.values()) <= most, {k: value for k, value in far.items() if value > most}


def plain_call(model: Net, x: Tensor) -> Tensor:
    return model(x)
