"""A few training steps that don't depend on the random state, and which tensors get a gradient in them."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

TRAINING_STEPS = 3
LEARNING_RATE = 1e-4  # larger steps blow some untrained nets up (halonet_h1)


def disable_dropout(model: nn.Module) -> None:
    """Switches dropout and stochastic depth off: whether a gradient arrives must not depend on the random state."""
    for module in model.modules():
        if isinstance(module, (nn.modules.dropout._DropoutNd, DropPath)):
            module.eval()


def projection_loss(output: Any) -> Tensor:
    """Returns the mean squared distance of all outputs to fixed numbers, so uneven that no symmetry makes the gradient vanish."""
    leaves = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
    weights = [torch.linspace(-1, 2, t.numel(), device=t.device).view(t.shape).cos() for t in leaves]
    return sum(((t - w) ** 2).float().mean() for t, w in zip(leaves, weights, strict=True))  # type: ignore[return-value]


def take_steps(model: nn.Module, batch: Tensor) -> tuple[set[str], set[str]]:
    """Takes a few steps of Adam on a fixed target.

    Returns the names of the parameters that the forward reads (a gradient came back), and of those whose gradient was not all
    zeros in some step.
    """
    model.train()
    disable_dropout(model)
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.Adam([p for p in parameters.values() if p.requires_grad], lr=LEARNING_RATE)
    read: set[str] = set()
    reached: set[str] = set()
    for _ in range(TRAINING_STEPS):
        optimizer.zero_grad()
        projection_loss(model(batch)).backward()
        gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        read |= gradients.keys()
        reached |= {name for name, gradient in gradients.items() if bool((gradient != 0).any())}
        optimizer.step()
    optimizer.zero_grad()
    return read, reached
