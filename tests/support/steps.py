"""Training steps of two copies of a model: their outputs and gradients, compared."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import petl
from tests.support.zoo import disturb, make

NORMS = petl.BN(stats="keep")


def twins(
    name: str, methods: object, memory: str, *, dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, nn.Module]:
    """The same adapted, disturbed model with the cheap steps and with the plain ones, in training mode."""
    base = make(name).to(dtype)
    plain = disturb(petl.wrap(copy.deepcopy(base), methods, num_classes=7, fused=False))
    cheap = petl.wrap(base, methods, num_classes=7, memory=memory)
    cheap.load_state_dict(plain.state_dict())
    return cheap.train(), plain.train()


def step(model: nn.Module, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output and all gradients of one training step; dropout draws the same numbers each time."""
    torch.manual_seed(0)
    model.zero_grad()
    out = model(batch)
    out = out[0] + out[1] if isinstance(out, tuple) else out
    (out**2).sum().backward()
    return out.detach(), {key: p.grad.clone() for key, p in petl.trainable(model).items() if p.grad is not None}


def close(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 1e-10) -> bool:
    """Whether gradients differ by rounding only, in units of each tensor's norm."""
    norms = {key: float(value.norm()) for key, value in other.items()}
    least = 1e-9 * max(norms.values())  # biases before a norm have no gradient but rounding
    return one.keys() == other.keys() and all(
        float((one[k] - other[k]).norm()) <= tolerance * max(norms[k], least) for k in other
    )


def trained_by_hand(model: nn.Module, batch: Tensor, steps: int = 2) -> nn.Module:
    """A few steps of plain SGD on a made-up loss."""
    model.train()
    optimizer = torch.optim.SGD(petl.trainable(model).values(), lr=0.05)
    for _ in range(steps):
        out = model(batch)
        loss = sum((o.square() - o).mean() for o in (out if isinstance(out, (tuple, list)) else [out]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
